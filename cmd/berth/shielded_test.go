package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

// look asks the operators' address for the metrics.
func look(t *testing.T, base string, change func(*http.Request)) (status int, page string) {
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, base+"/metrics", http.NoBody)
	req.RequestURI = ""
	if change != nil {
		change(req)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// The metrics name every organisation and account: a page in a browser on the
// node does not get them, by a name that leads there or by asking from afar.
func TestMetricsAreKeptFromPages(t *testing.T) {
	t.Parallel()
	n := newStage(t).serve()
	for what, change := range map[string]func(*http.Request){
		"a rebound name": func(r *http.Request) { r.Host = "rebound.example:5001" },
		"another origin": func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") },
		"another site":   func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
	} {
		if status, page := look(t, n.admin, change); status != http.StatusForbidden || strings.Contains(page, "berth_") {
			t.Errorf("%s: %d", what, status)
		}
	}
	link := func(r *http.Request) {
		r.Header.Set("Sec-Fetch-Site", "cross-site")
		r.Header.Set("Sec-Fetch-Mode", "navigate")
	}
	if status, _ := look(t, n.admin, link); status != http.StatusOK {
		t.Errorf("by a link: %d", status)
	}
	if status, page := look(t, n.admin, nil); status != http.StatusOK || !strings.Contains(page, "berth_") {
		t.Errorf("by its address: %d", status)
	}
}

// What web_config_file says holds; where it cannot be read, nothing is shown.
func TestMetricsBehindAPassword(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	hash, err := bcrypt.GenerateFromPassword([]byte("let-me-in"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	s.put("web.yaml", "basic_auth_users: {prometheus: "+string(hash)+"}\n")
	s.save(strings.Replace(s.read("berth.yaml"), "admin: {", "admin: {web_config_file: web.yaml, ", 1))
	n := s.serve()
	for password, want := range map[string]int{"": http.StatusUnauthorized, "wrong": http.StatusUnauthorized, "let-me-in": http.StatusOK} {
		status, page := look(t, n.admin, func(r *http.Request) {
			if password != "" {
				r.SetBasicAuth("prometheus", password)
			}
		})
		if status != want || strings.Contains(page, "berth_") != (want == http.StatusOK) {
			t.Errorf("with %q: %d, want %d", password, status, want)
		}
	}
}
