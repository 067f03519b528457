// Package setup says what is to be written where so that clients pull through
// this node: an image's local name, and the configuration of each kind of
// client. It knows the clients' files and the differences between their
// versions; it asks nobody and, but for WriteDaemonJSON, touches no file.
package setup
