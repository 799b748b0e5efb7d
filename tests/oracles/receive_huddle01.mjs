// Asks the official WebhookReceiver about deliveries: node receive_huddle01.mjs API_KEY, with JSON lines of
// {"body": text, "header": text} on standard input. Prints "accepted" or "rejected: why" for each.
import { text } from 'node:stream/consumers';
import { WebhookReceiver } from '@huddle01/server-sdk/webhooks';

const receiver = new WebhookReceiver({ apiKey: process.argv[2] });
for (const line of (await text(process.stdin)).split('\n').filter(Boolean)) {
  const { body, header } = JSON.parse(line);
  try {
    await receiver.receive(body, header);
    console.log(body === JSON.stringify(JSON.parse(body)) ? 'accepted' : 'rejected: not as JSON.stringify has it');
  } catch (error) {
    console.log(`rejected: ${error.message}`);
  }
}
