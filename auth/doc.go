// Package auth knows as whom a registry is asked; who is calling is known by
// auth/caller.
//
// Credentials finds the account of an organisation for a repository, and an
// Authority puts it on requests to one origin, by token exchange or as Basic
// credentials, to the places that may see it and to no other: Realms decides
// about token endpoints, MayFollow and SameOrigin about redirects. Classify
// says what a registry's refusal means.
//
// A secret is a secret.Text, which does not print. Tokens live in memory only. An
// organisation's secret or token never appears in an error, a log line or a
// metric; text that a registry sent is cleaned before it is kept.
//
// It leaves to others: which registry a request means and what is answered to
// the client (package proxy), connections, address policy, retries and the
// requests themselves (package upstream: it hands in its transport), what an
// answer proves (package cache), and reading the configuration.
package auth
