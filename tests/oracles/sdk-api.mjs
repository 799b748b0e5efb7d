// Calls the official SDK's API class: node sdk-api.mjs API_KEY, with [["method", argument], …] on standard input.
// Prints one JSON array: {"value": …} or {"error": message} for each call.

import './redirect-fetch.mjs';
import { text } from 'node:stream/consumers';
import { API } from '@huddle01/server-sdk/api';

const api = new API({ apiKey: process.argv[2] });
const outcomes = [];
for (const [method, ...args] of JSON.parse(await text(process.stdin))) {
  try {
    outcomes.push({ value: await api[method](...args) });
  } catch (error) {
    outcomes.push({ error: error.message });
  }
}
process.stdout.write(JSON.stringify(outcomes));
