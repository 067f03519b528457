// Package fleet is what nodes have fetched for each other: sealed parts in a bucket,
// and in a coordinator who fetches what.
//
// A node takes from it only what verifies itself, or what costs nothing but time if it
// is a lie: bytes, and that somebody is fetching. Never a tag, a right, a membership or
// a refusal. An Object is one blob in one scope: it says, run by run, whether the next
// bytes are to come from the fleet or from the registry, and gives to the fleet what
// came from there.
//
// A lease is for efficiency and not for correctness. Two holders write two writings; a
// coordinator that forgets everything costs some copies.
package fleet
