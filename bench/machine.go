package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// clockTick is the unit of times in /proc: USER_HZ, 100 on every Linux.
const clockTick = 10 * time.Millisecond

// family is a process and its children: nginx works in those.
func family(pid int) []int {
	all := []int{pid}
	found, _ := filepath.Glob("/proc/[0-9]*/stat") // no error: the pattern is good
	for _, path := range found {
		f, err := statOf(path)
		if err == nil && f[1] == strconv.Itoa(pid) {
			child, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			all = append(all, child)
		}
	}
	return all
}

// statOf are the fields of a stat file from the state on: 0 state, 1 parent.
func statOf(path string) ([]string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	_, rest, ok := strings.Cut(string(data), ") ") // a name may have blanks in it
	fields := strings.Fields(rest)
	if !ok || len(fields) < 13 {
		return nil, fmt.Errorf("%s cannot be read", path)
	}
	return fields, nil
}

// cpu is what a process and its children have used, in user and kernel.
func cpu(pid int) time.Duration {
	var ticks int
	for _, one := range family(pid) {
		f, err := statOf(fmt.Sprintf("/proc/%d/stat", one))
		if err != nil {
			continue // it has just ended
		}
		user, _ := strconv.Atoi(f[11])
		system, _ := strconv.Atoi(f[12])
		ticks += user + system
	}
	return time.Duration(ticks) * clockTick
}

// memory is the sum of a field of /proc/PID/status, such as VmRSS, in MiB.
func memory(pid int, field string) float64 {
	var kib float64
	for _, one := range family(pid) {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", one))
		if err != nil {
			continue // it has just ended
		}
		_, rest, _ := strings.Cut(string(data), field+":")
		line, _, _ := strings.Cut(rest, "\n")
		n, _ := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(line, "kB")), 64)
		kib += n
	}
	return kib / 1024
}

// settle lets the disk finish what earlier measurements have written.
func settle() {
	unix.Sync()
	time.Sleep(200 * time.Millisecond)
}

// forget takes large files under dir out of memory. Of a virtual machine that gives
// memory back to its host, pages that were not used lately cost ten times as much
// to write: without this, whoever is measured later pays for it.
func forget(dir string) error {
	settle()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return ignoreGone(err)
		}
		f, err := root.Open(path)
		if err != nil {
			return ignoreGone(err)
		}
		defer f.Close()
		if info, err := f.Stat(); err != nil || info.Size() < largeFile {
			return err
		}
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	})
}

// ignoreGone lets what has just been renamed pass.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// largeFile is what forget takes for one. The warm blob is among them: its row comes
// first.
const largeFile = 16 << 20

// describe says what machine this is.
func describe(ctx context.Context) map[string]string {
	m := map[string]string{"cores": strconv.Itoa(runtime.NumCPU()), "go": runtime.Version()}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m["kernel"] = unix.ByteSliceToString(name.Release[:])
	}
	if data, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		_, rest, _ := strings.Cut(string(data), "model name\t: ")
		m["processor"], _, _ = strings.Cut(rest, "\n")
	}
	if out, err := exec.CommandContext(ctx, "git", "rev-parse", "--short", "HEAD").Output(); err == nil {
		m["commit"] = strings.TrimSpace(string(out))
	}
	m["SHA-256"] = fmt.Sprintf("%.2f CPU s/GB", hashing().Seconds())
	return m
}

// hashing is what a gigabyte costs that is hashed once: the least that a cache
// can spend which checks what it fetched.
func hashing() time.Duration {
	const chunk, chunks = 1 << 20, 500
	h, data, start := sha256.New(), make([]byte, chunk), time.Now()
	for range chunks {
		h.Write(data)
	}
	return time.Since(start) * 1e9 / (chunk * chunks)
}
