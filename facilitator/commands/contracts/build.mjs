#!/usr/bin/env node
// Compiles every contract NAME.sol of a folder into NAME.json, or checks the committed ones.
//
//   node build.mjs [--check] [--sources DIR] [--out DIR]
//
// Reads nothing but the sources and the packages in .tools/node_modules, and writes nothing that
// depends on the machine: the same sources and package-lock.json give the same bytes everywhere.
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const here = dirname(fileURLToPath(import.meta.url))
const packages = resolve(here, '../../../.tools/node_modules')

const settings = {
  // The oldest rules that the networks we serve all have.
  evmVersion: 'cancun',
  optimizer: { enabled: true, runs: 10_000 },
  viaIR: true,
  // Without the hash of the metadata a comment does not change the bytecode.
  metadata: { bytecodeHash: 'none' },
}

function fail(message) {
  process.stderr.write(`build.mjs: ${message}\n`)
  process.exit(1)
}

function options() {
  try {
    const { values } = parseArgs({
      options: {
        check: { type: 'boolean', default: false },
        sources: { type: 'string', default: here },
        out: { type: 'string' },
      },
    })
    return { ...values, out: values.out ?? values.sources }
  } catch (error) {
    return fail(error.message)
  }
}

function compiler() {
  if (!existsSync(join(packages, 'solc'))) {
    fail('the compiler is not installed; remedy: make setup')
  }
  return createRequire(join(packages, 'solc', 'package.json'))('solc')
}

// One file at a time: what stands beside a contract must not be able to change its bytecode.
function compile(solc, folder, name) {
  const file = `${name}.sol`
  const input = {
    language: 'Solidity',
    sources: { [file]: { content: readFileSync(join(folder, file), 'utf8') } },
    settings: {
      ...settings,
      outputSelection: {
        [file]: {
          [name]: ['abi', 'metadata', 'evm.bytecode.object', 'evm.deployedBytecode'],
        },
      },
    },
  }
  const findImport = (path) => {
    const found = [join(folder, path), join(packages, path)].find((place) => existsSync(place))
    return found ? { contents: readFileSync(found, 'utf8') } : { error: `not found: ${path}` }
  }
  const output = JSON.parse(solc.compile(JSON.stringify(input), { import: findImport }))
  // Warnings too: in a contract that holds the keys to money none is left unread.
  if (output.errors?.length) {
    fail(output.errors.map((error) => error.formattedMessage).join('\n'))
  }
  const contract = output.contracts[file]?.[name]
  if (!contract) fail(`${file} has no contract ${name}`)
  return artifact(name, file, contract, solc.version())
}

function artifact(name, file, contract, version) {
  const { sources } = JSON.parse(contract.metadata)
  const hashes = Object.entries(sources).map(([source, { keccak256 }]) => [source, keccak256])
  const references = Object.values(contract.evm.deployedBytecode.immutableReferences ?? {})
  return {
    contractName: name,
    sourceName: file,
    compiler: version,
    settings,
    sourceHashes: Object.fromEntries(hashes.sort()),
    abi: contract.abi,
    bytecode: `0x${contract.evm.bytecode.object}`,
    deployedBytecode: `0x${contract.evm.deployedBytecode.object}`,
    immutableReferences: references.flat().sort((a, b) => a.start - b.start),
  }
}

function differences(fresh, path) {
  if (!existsSync(path)) return ['the artifact is missing']
  const text = readFileSync(path, 'utf8')
  if (text === serialize(fresh)) return []
  let committed
  try {
    committed = JSON.parse(text)
  } catch {
    return ['the artifact is not JSON']
  }
  const keys = [...new Set([...Object.keys(fresh), ...Object.keys(committed)])]
  const differing = keys.filter((key) => JSON.stringify(fresh[key]) !== JSON.stringify(committed[key]))
  return differing.length ? differing : ['layout']
}

function serialize(value) {
  return `${JSON.stringify(value, null, 2)}\n`
}

function orphans(folder, names) {
  if (!existsSync(folder)) return []
  return readdirSync(folder)
    .filter((file) => file.endsWith('.json') && !file.startsWith('package'))
    .filter((file) => !names.includes(file.slice(0, -'.json'.length)))
}

const { check, sources, out } = options()
if (!existsSync(sources)) fail(`no such folder: ${sources}`)
const solc = compiler()
const names = readdirSync(sources)
  .filter((file) => file.endsWith('.sol'))
  .map((file) => file.slice(0, -'.sol'.length))
  .sort()

const complaints = orphans(out, names).map((file) => `${file}: no source`)
if (!check) mkdirSync(out, { recursive: true })
for (const name of names) {
  const fresh = compile(solc, sources, name)
  const path = join(out, `${name}.json`)
  if (check) {
    const differing = differences(fresh, path)
    if (differing.length) complaints.push(`${name}.json: differs in ${differing.join(', ')}`)
  } else {
    writeFileSync(path, serialize(fresh))
    process.stdout.write(`${name}.json: ${(fresh.deployedBytecode.length - 2) / 2} bytes of code\n`)
  }
}
if (complaints.length) fail(`\n${complaints.join('\n')}`)
