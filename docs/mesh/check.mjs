// The glTF project's validator, for check.py: node check.mjs NODE_MODULES FILE.glb prints its report as JSON.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [modules, file] = process.argv.slice(2);
const validator = createRequire(`${modules}/`)("gltf-validator");
console.log(JSON.stringify(await validator.validateBytes(new Uint8Array(readFileSync(file)))));
