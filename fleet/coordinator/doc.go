// Package coordinator asks Valkey or Redis (7 or later) who is fetching what. Nothing
// that it says is believed about rights or content; if it forgets everything that
// costs copies.
//
// A node has a prefix which only its own user may write, so that what is read there
// was said by that node. Everything else may be written by every node and is a hint:
//
//	berth:node:<node>:<where>:<name>  what the node says about an object (Record)
//	berth:who:<where>:<name>          the nodes that said something, the last first
//	berth:lease:<where>:<name>        who is fetching it: node and writing; with .1 behind
//	                                  it who does so although that lease is not worth
//	                                  waiting for
//	berth:slot:<where>:<number>       who is fetching without a lease
//
// where is the zone, or "all" for what all zones share. Every key expires, and no
// reply is longer than what was asked for: all reading is GETRANGE. There is no
// subscribing: whoever waits for parts asks a few times a second, and nobody's
// message can be as long as he likes.
package coordinator
