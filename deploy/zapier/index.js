// The presence bridge on Zapier: a connection is the address of a bridge and a token with the scope `hooks`; each
// trigger is a REST hook.
const zapier = require('zapier-platform-core');

const { authentication, authorize, explainProblem } = require('./authentication');
const triggers = require('./triggers');

module.exports = {
  version: require('./package.json').version,
  platformVersion: zapier.version,
  authentication,
  beforeRequest: [authorize],
  afterResponse: [explainProblem],
  triggers,
};
