// Asks by the client that hey-api's openapi-ts made.

import assert from "node:assert";
import { readFileSync } from "node:fs";
import { listModels, predict, predictBatch, predictStream } from "./hey";
import { client } from "./hey/client.gen";

const image = readFileSync(process.env.SEVEN!).toString("base64");
client.setConfig({ baseUrl: process.env.ADDRESS! });

const answer = await predict({ body: { image, target: 0.5 }, query: { target: 0.5 } });
assert(answer.data, JSON.stringify(answer.error));
assert.equal(answer.data.label.name, "7");
assert.equal(answer.data.robust, true);

const batch = await predictBatch({ body: { images: [image, "bm8="] } });
const [first, second] = batch.data!.predictions;
assert("label" in first && first.label.name === "7");
assert("error" in second && second.error.type === "/problems/not-a-picture");

const wrong = await predict({ body: { image }, query: { max_draws: 1 } });
assert(wrong.error && "type" in wrong.error);
assert.equal(wrong.error.type, "/problems/option-out-of-range");

let last: unknown;
const { stream } = await predictStream({ body: { image, target: 0.5 } });
for await (const event of stream) last = event;
assert.equal((last as { label: { name: string } }).label.name, "7");

const models = await listModels();
assert.equal(models.data?.models[0].name, "mnist-cnn");
