// Asks by openapi-fetch with the types that openapi-typescript made.

import assert from "node:assert";
import { readFileSync } from "node:fs";
import createClient from "openapi-fetch";
import type { paths } from "./schema";

const seven = readFileSync(process.env.SEVEN!);
const image = seven.toString("base64");
const client = createClient<paths>({ baseUrl: process.env.ADDRESS! });
const query = { target: 0.5 };

const json = await client.POST("/predict", { params: { query }, body: { image, target: 0.5 } });
assert(json.data, JSON.stringify(json.error));
assert.equal(json.data.label.name, "7");
assert.equal(json.data.robust, true);

const form = await client.POST("/predict", {
  params: { query },
  body: { image: "" },
  bodySerializer: () => {
    const fields = new FormData();
    fields.append("image", new Blob([seven]));
    return fields;
  },
});
assert.equal(form.data?.label.name, "7", JSON.stringify(form.error));

const raw = await client.POST("/predict", {
  params: { query },
  body: image,
  bodySerializer: () => seven,
  headers: { "Content-Type": "application/octet-stream" },
});
assert.equal(raw.data?.label.name, "7", JSON.stringify(raw.error));

const batch = await client.POST("/predict/batch", { body: { images: [image, "bm8="] } });
const [first, second] = batch.data!.predictions;
assert("label" in first && first.label.name === "7");
assert("error" in second && second.error.type === "/problems/not-a-picture");

const wrong = await client.POST("/predict", { body: { image, max_draws: 1 } });
// An error may be an answer, too: one that is not robust, where that was required.
assert(wrong.error && "type" in wrong.error);
assert.equal(wrong.error.type, "/problems/option-out-of-range");
assert.equal(wrong.error.option, "max_draws");

const models = await client.GET("/models");
assert.equal(models.data?.models[0].name, "mnist-cnn");
