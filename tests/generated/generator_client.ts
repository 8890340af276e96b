// Asks by the client that openapi-generator's typescript-fetch made.

import assert from "node:assert";
import { readFileSync } from "node:fs";
import { Configuration, ModelsApi, PredictionsApi, ResponseError } from "./typescript-fetch";

const image = readFileSync(process.env.SEVEN!).toString("base64");
const configuration = new Configuration({ basePath: process.env.ADDRESS! });
const predictions = new PredictionsApi(configuration);

const answer = await predictions.predict({ predictRequest: { image, target: 0.5 }, target: 0.5 });
assert.equal(answer.label.name, "7");
assert.equal(answer.robust, true);
assert(answer.certifiedSize >= 0.5);

const batch = await predictions.predictBatch({
  predictBatchRequest: { images: [image, image] },
  scores: "all",
});
assert.equal(batch.predictions.length, 2);

const wrong = await predictions
  .predict({ predictRequest: { image }, maxDraws: 1 })
  .then(() => null, (error: ResponseError) => error);
assert(wrong instanceof ResponseError);
assert.equal((await wrong.response.json()).type, "/problems/option-out-of-range");

const models = await new ModelsApi(configuration).listModels();
assert.equal(models.models[0].name, "mnist-cnn");
