// Package setup leads clients through this node: an image's local name, and what is to
// be written where for each kind of client, in both directions. It knows the clients'
// files and the differences between their versions, and asks nobody. Only Plan.Write and
// Plan.Undo change files: atomically, keeping what is not berth's, following no links.
package setup
