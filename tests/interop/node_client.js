// Many requests at once on kept connections, bodies both ways; then a worker dies, and requests go on.
const crypto = require("crypto");
const http = require("http");

const [host, port] = [process.argv[2], Number(process.argv[3])];
const agent = new http.Agent({ keepAlive: true, maxSockets: 10 });

function ask(path, body, how = agent) {
  return new Promise((resolve, reject) => {
    const request = http.request({ host, port, path, agent: how, method: body ? "POST" : "GET" }, (answer) => {
      const parts = [];
      answer.on("data", (part) => parts.push(part));
      answer.on("end", () => resolve(Buffer.concat(parts)));
      answer.on("error", reject);
    });
    request.on("error", reject);
    request.end(body);
  });
}

async function one(n) {
  const size = n % 10 === 0 ? 300_000 : 1000 + n;
  if (!(await ask(`/${size}`)).equals(Buffer.alloc(size, "node"))) {
    throw new Error(`answer ${n} differs`);
  }
  const body = crypto.randomBytes(size);
  if ((await ask("/", body)).toString() !== crypto.createHash("sha256").update(body).digest("hex")) {
    throw new Error(`body ${n} differs`);
  }
}

async function main() {
  await Promise.all(Array.from({ length: 150 }, (_, n) => one(n)));
  if ((await ask("/5000000")).length !== 5_000_000) {
    throw new Error("the large answer is too short");
  }
  agent.destroy();
  await ask("/die", null, false);
  // What is given to it until it has ended is lost on any socket.
  await new Promise((resolve) => setTimeout(resolve, 500));
  for (let n = 0; n < 20; n++) {
    await ask("/1000", null, false);
  }
  console.log("done");
}

main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
