package admin

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestPageInABrowser looks at the page with a real one, where there is one: nothing of it
// is kept from working by its own policy. BERTH_LONG=1 looks at it in every form, and
// BERTH_SCREENSHOTS names a folder for pictures.
func TestPageInABrowser(t *testing.T) {
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed")
	}
	folder := os.Getenv("BERTH_SCREENSHOTS")
	if folder == "" {
		folder = t.TempDir()
	}
	empty := func() (Status, *History) { return quiet(), NewHistory(1) }
	all := []struct {
		name   string
		status func() (Status, *History)
		full   bool
		flags  []string
	}{
		{"failing-full", failing, true, []string{"--window-size=1280,1500"}},
		{"busy", busy, false, []string{"--window-size=1280,1060"}},
		{"empty", empty, false, []string{"--window-size=1280,860"}},
		{"busy-dark", busy, false, []string{"--window-size=1280,1060", "--blink-settings=preferredColorScheme=0"}},
		{"failing", failing, false, []string{"--window-size=1280,1400"}},
		{"failing-phone", failing, true, []string{"--window-size=500,2600"}},
		{"busy-phone-dark", busy, false, []string{"--window-size=500,2000", "--blink-settings=preferredColorScheme=0"}},
	}
	if os.Getenv("BERTH_LONG") != "1" {
		all = all[:1]
	}
	for _, c := range all {
		s, h := c.status()
		server := httptest.NewServer(NewPage(PageOptions{Status: func(context.Context) (Status, error) { return s, nil }, History: h, Full: c.full, Local: true}))
		picture := filepath.Join(folder, c.name+".png")
		said := browse(t, path, append(c.flags, "--screenshot="+picture, server.URL)...)
		server.Close()
		if strings.Contains(said, "Refused to") || strings.Contains(said, "Uncaught") {
			t.Errorf("%s: %s", c.name, said)
		}
		if info, err := os.Stat(picture); err != nil || info.Size() < 10_000 {
			t.Errorf("%s: %v, %s", c.name, err, said)
		}
	}
}

// TestPageRenewsItself: the second answer is what the browser ends with, and when
// there is none, it says so.
func TestPageRenewsItself(t *testing.T) {
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed")
	}
	var asked atomic.Int32
	server := httptest.NewServer(NewPage(PageOptions{Status: func(context.Context) (Status, error) {
		s := quiet()
		if n := asked.Add(1); n == 2 {
			s.Pulls.Served = 4711
		} else if n > 2 {
			return s, errors.New("in trouble")
		}
		return s, nil
	}}))
	defer server.Close()
	dom := browse(t, path, "--virtual-time-budget=12000", "--dump-dom", server.URL)
	if !strings.Contains(dom, "4\u202f711") || strings.Contains(dom, `role="alert" hidden`) {
		t.Errorf("asked %d times:\n%s", asked.Load(), dom)
	}
}

// browse runs the browser once and gives all that it said.
func browse(t *testing.T, path string, flags ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	flags = append([]string{"--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr", "--user-data-dir=" + t.TempDir()}, flags...)
	out, err := exec.CommandContext(ctx, path, flags...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	http.DefaultClient.CloseIdleConnections()
	return string(out)
}
