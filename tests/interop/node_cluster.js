// A cluster of two workers. GET /N: so many bytes; POST: the hash of the body; /die: the worker ends, another one begins.
const cluster = require("cluster");
const crypto = require("crypto");
const http = require("http");

const [address, port] = [process.argv[2], Number(process.argv[3])];
if (cluster.isPrimary) {
  cluster.fork();
  cluster.fork();
  cluster.on("exit", () => cluster.fork());
  process.on("SIGTERM", () => process.exit(0));
} else {
  http.createServer((request, answer) => {
    if (request.method === "POST") {
      const hash = crypto.createHash("sha256");
      request.on("data", (data) => hash.update(data));
      request.on("end", () => answer.end(hash.digest("hex")));
    } else if (request.url === "/die") {
      answer.end("dying", () => process.exit(1));
    } else {
      answer.end(Buffer.alloc(Number(request.url.slice(1)), "node"));
    }
  }).listen(port, address);
}
