// The page's requests to the service. Nothing is certified here: every number comes from an answer.

/** An error in words: a problem document, or a note that there was no answer. */
export class Problem extends Error {
  constructor({ title, detail, status = 0, ...members }) {
    super(detail || title);
    // The type may be below the path of a proxy; the page's own links are relative.
    const kind = /\/problems\/([a-z-]+)$/.exec(members.type)?.[1];
    Object.assign(this, { title, detail, status, members, kind });
  }
}

const KEY = "pixeldp-key";

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
};

async function send(path, init = {}) {
  const headers = { ...init.headers };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let response;
  try {
    response = await fetch(path, { ...init, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({
      title: "The service cannot be reached",
      detail: "There was no answer. Check that the service is running, then try again.",
    });
  }
  if (response.ok) return response;
  throw new Problem(await problemOf(response));
}

async function problemOf(response) {
  try {
    return { ...(await response.json()), status: response.status };
  } catch {
    // A proxy in between answers in its own words.
    const title = `The answer was ${response.status} ${response.statusText}`.trim();
    return { title, detail: "It did not say why.", status: response.status };
  }
}

export async function bytes(path) {
  return (await send(path)).blob();
}

/** The models; a family is its default member, with the family's name. */
export async function models() {
  const { models: found, families } = await (await send("models")).json();
  const named = families.map(({ name, default: usual }) => {
    const member = found.find((model) => `${model.name}:${model.version}` === usual);
    return member && { ...member, family: name };
  });
  return [...found, ...named.filter(Boolean)];
}

/** The pixels that would be certified, as a bitmap: a browser may decode a file differently. */
export async function decoded(picture, signal) {
  const response = await send("page/picture", {
    method: "POST",
    headers: { "Content-Type": picture.type },
    body: picture.bytes,
    signal,
  });
  return createImageBitmap(await response.blob());
}

/**
 * Ask about a picture, and yield the service's events: `look` at every look, then `answer`.
 *
 * Read from the body, since EventSource can only GET.
 */
export async function* stream(picture, options, signal) {
  const query = new URLSearchParams(options);
  const response = await send(`predict/stream?${query}`, {
    method: "POST",
    headers: { "Content-Type": picture.type },
    body: picture.bytes,
    signal,
  });
  let answered = false;
  for await (const { event, data } of events(response.body)) {
    if (event === "error") throw new Problem(data);
    answered ||= event === "answer";
    yield { event, data };
  }
  if (answered) return;
  throw new Problem({
    title: "The answer broke off",
    detail: "The connection ended before the answer was complete. Try again.",
  });
}

async function* events(body) {
  const [reader, decoder] = [body.getReader(), new TextDecoder()];
  let text = "";
  for (;;) {
    const { value, done } = await reader.read().catch(brokenOff);
    if (done) return;
    const blocks = (text + decoder.decode(value, { stream: true })).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n").map((line) => /^(\w+): ?(.*)$/.exec(line));
      const fields = Object.fromEntries(lines.filter(Boolean).map(([, name, rest]) => [name, rest]));
      yield { event: fields.event, data: JSON.parse(fields.data) };
    }
  }
}

function brokenOff(error) {
  if (error.name === "AbortError") throw error;
  return { done: true };
}
