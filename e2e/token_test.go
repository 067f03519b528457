//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const issuer, keyID = "made-up", "the-only-key"

// startTokenRegistry starts distribution that lets in whoever has a token, and a server
// of tokens on the same address that gives them to its owner.
func startTokenRegistry(t *testing.T, name string, owner login) *upstream {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	point, err := key.PublicKey.Bytes() // 4, X, Y
	must(t, err)
	encode := base64.RawURLEncoding.EncodeToString
	keys := map[string]any{"keys": []map[string]string{{
		"kty": "EC", "crv": "P-256", "kid": keyID, "use": "sig", "alg": "ES256", "x": encode(point[1:33]), "y": encode(point[33:]),
	}}}
	text, err := json.Marshal(keys)
	must(t, err)
	dir, addr := tempDir(t, "reg"), freeAddress(t)
	tp := startTap(t, addr)
	tp.tokens = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !ok || user != owner.user || password != owner.password {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]string{"token": tokenFor(key, r)})
	})
	serveRegistry(t, dir, addr, fmt.Sprintf("auth: {token: {realm: 'http://%s/token', service: %s, issuer: %s, jwks: %s, signingalgorithms: [ES256]}}\n",
		tp.addr, name, issuer, writeFile(t, filepath.Join(dir, "keys.json"), string(text))))
	return &upstream{name: name, owner: owner, tap: tp}
}

// tokenFor grants what is asked for (distribution, token specification).
func tokenFor(key *ecdsa.PrivateKey, r *http.Request) string {
	type access struct {
		Type    string   `json:"type"`
		Name    string   `json:"name"`
		Actions []string `json:"actions"`
	}
	granted := []access{}
	for _, scope := range r.URL.Query()["scope"] {
		for one := range strings.FieldsSeq(scope) {
			if parts := strings.Split(one, ":"); len(parts) == 3 {
				granted = append(granted, access{parts[0], parts[1], strings.Split(parts[2], ",")})
			}
		}
	}
	now := time.Now()
	part := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			panic(err) // maps of strings and numbers
		}
		return base64.RawURLEncoding.EncodeToString(text)
	}
	signed := part(map[string]string{"typ": "JWT", "alg": "ES256", "kid": keyID}) + "." + part(map[string]any{
		"iss": issuer, "aud": r.URL.Query().Get("service"), "sub": "somebody", "jti": rand.Text(),
		"iat": now.Unix(), "nbf": now.Add(-time.Minute).Unix(), "exp": now.Add(5 * time.Minute).Unix(), "access": granted,
	})
	sum := sha256.Sum256([]byte(signed))
	a, b, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		panic(err) // only for a key that is none
	}
	var signature [64]byte
	a.FillBytes(signature[:32])
	b.FillBytes(signature[32:])
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature[:])
}
