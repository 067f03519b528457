// Package proxy is the front of the house: HTTP in, oci.Source out. A request
// is parsed, its caller identified, its registry found in a table, and what the
// Source gives is sent; handler.go reads in that order.
//
// It leaves to others who callers are (auth), what may be released and where
// bytes come from (the Source it is given), and how names come to be in the
// table (configuration). It makes no request of its own and looks no name up in
// DNS: a registry that is not in the table does not exist.
package proxy
