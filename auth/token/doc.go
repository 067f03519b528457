// Package token signs requests to one origin: a Client learns how the origin wants that,
// fetches tokens or sends Basic credentials, to the places that may see them and to no
// other (Realms decides about token endpoints), and leaves a refused credential alone
// for a while. Tokens live in memory only.
//
// It is handed the transport that its requests go over, and knows nothing of connections,
// address policy and retries (package upstream), nor of what an answer proves (package
// cache).
package token
