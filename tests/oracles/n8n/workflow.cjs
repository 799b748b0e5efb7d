// Checks a workflow with n8n's own code and runs it: node workflow.cjs NODES WORKFLOW, with the requests to its webhook
// as JSON on standard input. NODES is dist/types/nodes.json of n8n-nodes-base, the descriptions of all nodes.
// Prints {"problems": [text, …], "messages": [[text that goes to Slack, …] for each request]}.
const { readFileSync } = require('node:fs');
const { isDeepStrictEqual } = require('node:util');
const { NodeHelpers, Workflow, executeFilter } = require('n8n-workflow');

const json = (file) => JSON.parse(readFileSync(file, 'utf8'));
const [descriptions, { nodes, connections }] = process.argv.slice(2).map(json);
const described = (type, version) =>
  descriptions.find((each) => `n8n-nodes-base.${each.name}` === type && [each.version].flat().includes(version));

const problemsOf = (node) => {
  const description = described(node.type, node.typeVersion);
  if (!description) return [`${node.name}: there is no ${node.type} ${node.typeVersion}`];
  const { properties } = description;
  const known = NodeHelpers.getNodeParameters(properties, node.parameters, true, false, node, description);
  const unknown = Object.keys(node.parameters).filter((key) => !isDeepStrictEqual(node.parameters[key], known[key]));
  const wrong = properties.filter(
    ({ name, type, options, ...rest }) =>
      type === 'options' &&
      name in node.parameters &&
      NodeHelpers.displayParameter(known, { name, ...rest }, node, description) &&
      !options.some(({ value }) => value === node.parameters[name]),
  );
  const issues = NodeHelpers.getNodeParametersIssues(properties, { ...node, parameters: known }, description);
  return [
    ...unknown.map((key) => `${node.name}: parameter ${key} is not as described`),
    ...wrong.map(({ name }) => `${node.name}: ${name} has no option ${node.parameters[name]}`),
    ...Object.values(issues?.parameters ?? {}).flat().map((issue) => `${node.name}: ${issue}`),
  ];
};

const run = (workflow, node, item) => {
  const resolve = (value) =>
    workflow.expression.resolveSimpleParameterValue(value, {}, null, 0, 0, node.name, [item], 'webhook', {});
  if (node.type === 'n8n-nodes-base.slack') return [resolve(node.parameters.text)];
  if (node.type === 'n8n-nodes-base.filter') {
    const { conditions, ...rest } = node.parameters.conditions;
    const resolved = conditions.map((each) => ({ ...each, leftValue: resolve(each.leftValue) }));
    if (!executeFilter({ ...rest, conditions: resolved })) return [];
  }
  const next = workflow.getChildNodes(node.name, 'main', 1);
  return next.flatMap((name) => run(workflow, workflow.getNode(name), item));
};

const runAll = (requests) => {
  const nodeTypes = { getByNameAndVersion: (type, version) => ({ description: described(type, version) }) };
  const workflow = new Workflow({ nodes, connections, active: false, nodeTypes });
  const start = nodes.find((node) => node.type === 'n8n-nodes-base.webhook');
  return requests.map((request) => run(workflow, workflow.getNode(start.name), { json: request }));
};

const problems = nodes.flatMap(problemsOf);
const messages = problems.length ? [] : runAll(JSON.parse(readFileSync(0, 'utf8')));
process.stdout.write(JSON.stringify({ problems, messages }));
