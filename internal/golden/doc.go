// Package golden holds what users and other programs rely on, as text files in
// testdata: names of metrics, keys of log lines and of the configuration, commands
// and their JSON, what clients read when a pull fails, what a pull costs upstream and
// on this machine, and the form of the cache folder. A change of any of them fails
// here until its file says it too:
//
//	go test ./internal/golden -run Golden -update
//
// The tests know berth as its users do, as a built program with sockets and files, so
// that code can move without touching them. The form of memberships, which is inside a
// database, is held by cache/proof (testdata/member.golden).
package golden
