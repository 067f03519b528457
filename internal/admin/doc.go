// Package admin is how commands talk to the running node: HTTP and JSON over a
// Unix socket that only root and the service's own user can use. Both ends are
// here: the server (Listen, NewServer), and the Client behind the commands.
//
// What the routes do is handed in (Options): this package knows nothing about
// configurations or caches. It never listens on TCP, where a web page on the
// node or a container in the host's network could ask for a purge.
package admin
