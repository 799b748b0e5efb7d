// Verifies webhook requests with the `standardwebhooks` package of npm, many at once.
// stdin: [{"secret", "headers", "body" (base64)}, …]; stdout: one entry for each, null or what is wrong.
import { readFileSync } from "node:fs";
import { Webhook } from "standardwebhooks";

const requests = JSON.parse(readFileSync(0, "utf8"));
const outcomes = requests.map(({ secret, headers, body }) => {
  try {
    new Webhook(secret).verify(Buffer.from(body, "base64"), headers);
    return null;
  } catch (error) {
    return `${error.name}: ${error.message}`;
  }
});
process.stdout.write(JSON.stringify(outcomes));
