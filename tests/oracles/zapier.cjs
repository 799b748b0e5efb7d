// Runs functions of a Zapier integration with Zapier's own app tester: node zapier.cjs DIRECTORY, with
// [[path, bundle], …] on standard input; the path "validate" is what `zapier validate` checks on this machine.
// Prints one JSON array: {"value": …} or {"error": message} for each.
const { readFileSync } = require('node:fs');
const { createRequire } = require('node:module');
const { join } = require('node:path');

const load = createRequire(join(process.argv[2], 'index.js'));
const app = load('./index.js');
const zapier = load('zapier-platform-core');
const call = zapier.createAppTester(app);
const found = (path) => path.split('.').reduce((part, name) => part[name], app);

const run = async (path, bundle) => {
  if (path === 'validate') {
    return (await zapier.createAppHandler(app)({ command: 'validate' })).results;
  }
  return await call(found(path), bundle);
};

(async () => {
  const outcomes = [];
  for (const [path, bundle] of JSON.parse(readFileSync(0, 'utf8'))) {
    try {
      outcomes.push({ value: await run(path, bundle) });
    } catch (error) {
      outcomes.push({ error: error.message });
    }
  }
  process.stdout.write(JSON.stringify(outcomes));
})();
