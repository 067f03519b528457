package main

import (
	"os"
	"os/signal"
	"syscall"
)

// outlive makes the process outlive signals that are about its terminal or the
// reader of its log, and are no order to it. It is for serve alone: other commands
// end by SIGPIPE in a pipeline whose reader has gone, as people expect.
//
// SIGPIPE: a write to standard output or error whose reader has gone would end the
// process, in the middle of all pulls (os/signal, "SIGPIPE"); once it is asked for,
// the write fails with EPIPE and nothing more. It is caught and not ignored, since an
// ignored signal stays ignored in the programs that are started from here
// (credential helpers).
//
// SIGTTOU, SIGTTIN: a process in the background of a terminal is stopped when it
// writes there (stty tostop) or reads. These have to be ignored: the kernel starts a
// write again for as long as the signal is caught.
//
// All others need nothing. SIGHUP reads the configuration again; SIGINT and SIGTERM
// end the process in good order. Go takes SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM,
// SIGPROF, SIGIO, SIGPWR, SIGXCPU, SIGXFSZ and the real-time signals and does nothing.
// SIGQUIT and SIGABRT print all goroutines and end the process, which is what
// somebody wants who sends one (systemd's watchdog does). SIGTSTP and SIGSTOP are
// asked for by whoever sends them, too.
//
// It holds to the end of the process: the last message goes to the same place.
func outlive() {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) // nobody looks: that it is asked for is enough
	signal.Ignore(syscall.SIGTTOU, syscall.SIGTTIN)
}
