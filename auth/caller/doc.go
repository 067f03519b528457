// Package caller tells which organisation makes a request, by the tokens that the
// configuration gives to organisations for this node. It says nothing about what the
// organisation may pull.
package caller
