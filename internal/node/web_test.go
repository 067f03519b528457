package node

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/internal/nodetest"
)

// bcrypt of "scrape".
const scrapeHash = "$2a$04$vVhLOWQWrga2KjQ1shFOXObtS8l191b/eJ6qZQqcEokyg3ua26jzG"

const tlsPart = "tls_server_config: {cert_file: tls.crt, key_file: tls.key}\n"

// What a file for an address that others reach has to have.
func TestWebConfigFileKeepsStrangersOut(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	nodetest.Certificate(t, dir, "one")
	users := "basic_auth_users: {prometheus: '" + scrapeHash + "'}\n"
	for text, want := range map[string]string{
		tlsPart + users: "",
		users:           "it has no certificate",
		"{}\n":          "it has no certificate",
		tlsPart:         "it asks nobody who he is",
		strings.Replace(tlsPart, "}", ", client_auth_type: RequireAndVerifyClientCert, client_ca_file: tls.crt}", 1): "",
		"basic_auth_users: [\n": "web_config_file",
	} {
		nodetest.Put(t, filepath.Join(dir, "web.yaml"), text)
		err := checkWeb(filepath.Join(dir, "web.yaml"), true, false)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	nodetest.Put(t, filepath.Join(dir, "web.yaml"), tlsPart+users)
	if err := os.Chmod(filepath.Join(dir, "tls.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := checkWeb(filepath.Join(dir, "web.yaml"), false, false); err == nil || !strings.Contains(err.Error(), "mode 0644") {
		t.Errorf("a key for all to read: %v", err)
	}

	// Whoever takes the users out while it runs closes the address.
	var log strings.Builder
	w := webServer{file: filepath.Join(dir, "web.yaml"), log: slog.New(slog.NewTextHandler(&log, nil))}
	h := w.protected(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	for text, want := range map[string]int{tlsPart + users: http.StatusNoContent, tlsPart: http.StatusServiceUnavailable, "": http.StatusServiceUnavailable} {
		nodetest.Put(t, filepath.Join(dir, "web.yaml"), text)
		a := httptest.NewRecorder()
		h.ServeHTTP(a, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
		if a.Code != want {
			t.Errorf("%q: %d, want %d", text, a.Code, want)
		}
	}
	if strings.Count(log.String(), "answers nobody") != 1 {
		t.Errorf("the log: %s", log.String())
	}
}
