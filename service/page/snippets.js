// The request as an application sends it: with curl, and with the Python client.

import { key } from "./api.js";

/** A word for a POSIX shell. */
const quoted = (text) => (/^[\w./:@=&?-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

export function curl(address, picture, options) {
  const url = `${address}predict?${new URLSearchParams(options)}`;
  const lines = [
    `curl --data-binary ${quoted(`@${picture.name}`)}`,
    `-H 'Content-Type: ${picture.type}'`,
    ...(key.get() ? ['-H "Authorization: Bearer $PIXELDP_KEY"'] : []),
    `'${url.replaceAll("'", "%27")}'`,
  ];
  return lines.join(" \\\n  ");
}

export function python(address, picture, options) {
  const { threat, target, ...rest } = options;
  const named = threat ? { side: target, ...rest } : options;
  const given = Object.entries(named).map(([name, value]) => `${name}=${JSON.stringify(value)}`);
  const secret = key.get();
  const client = `Client(${JSON.stringify(address)}${secret ? ', api_key=os.environ["PIXELDP_KEY"]' : ""})`;
  return [
    ...(secret ? ["import os", ""] : []),
    "from pixeldp_client import Client",
    "",
    `with ${client} as client:`,
    `    prediction = client.${threat ? "predict_sticker" : "predict"}(`,
    `        ${[JSON.stringify(picture.name), ...given].join(",\n        ")},`,
    "    )",
    `    print(prediction.label.name, prediction.${threat ? "sticker" : "certified_size"}, prediction.robust)`,
  ].join("\n");
}
