"""A registry and limits that load; tests change one line of them."""

REGISTRY = """\
version: 1
tenant: default
entries:
  - id: spiffe://prod.example/ns/pay/sa/ledger-mcp
    role: mcp-server
    name: ledger
    url: https://ledger.example/mcp
    tools:
      transfer:
        impact: high
        schema: sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
        facts: {amount: /amount}
        plan: [{at: https://bank.example, request: "POST /v1/transfers", times: 1}]
      list_transfers:
        impact: low
        plan: [{at: https://bank.example, request: "GET /v1/{account}/transfers", query: [page], times: 20}]
      whoami: {impact: low, plan: self}
    may_start: {tools: [audit/*, client/elicitation], impact: low}
    mode: require
    without_step: refuse
  - id: spiffe://prod.example/ns/audit/*
    role: mcp-server
    name: audit
    tools: {note: {impact: low}}
  - {id: spiffe://prod.example/bank, role: resource, name: bank, audience: https://bank.example}
  - id: spiffe://prod.example/agent/chat
    role: agent
    name: chat
    clients: [{issuer: https://idp.example, client_id: chat-app}]
    max_auth_age: 30m
    may_start: {tools: ["ledger/*"], impact: high}
  - id: spiffe://prod.example/cron
    role: trigger
    name: nightly
    owner: ops@prod.example
    may_start: {tools: [ledger/list_transfers], impact: low}
  - {id: spiffe://prod.example/alice, role: operator, name: alice}
count: 6
"""

LIMITS = """\
version: 1
rates:
  - {name: per-workload, on: credentials, per: [workload], rate: 600/min, burst: 100}
  - {name: server-origin, "on": steps, per: [workload], match: {origin: server}, rate: 60/min, burst: 20}
concurrency:
  - {name: outstanding-per-workload, per: [workload], max: 100}
transaction: {steps: 200, depth: 8, fan_out: 50, server_steps: 20}
life: {step_token: 60s, accepted: 15m, waiting: 15m, credential: 60s, intent: 1h}
count: 2
"""
