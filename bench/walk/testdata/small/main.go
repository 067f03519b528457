// Command small is a proxy whose walk is known: ADDRESS UPSTREAM USER PASSWORD.
package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"example.org/small/store"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go tick(ctx)
	s := &http.Server{Addr: os.Args[1], Handler: http.HandlerFunc(answer)}
	context.AfterFunc(ctx, func() { s.Close() })
	s.ListenAndServe()
}

// tick runs without being asked for.
func tick(ctx context.Context) {
	for ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
}

func answer(w http.ResponseWriter, q *http.Request) {
	if q.URL.Path == "/v2/" {
		return
	}
	w.Write(store.Get(q.URL.Path, func() []byte { return fetch(q.URL.Path) }))
}

func fetch(path string) []byte {
	q, _ := http.NewRequest(http.MethodGet, os.Args[2]+path, nil)
	q.Header.Set("Authorization", "Bearer "+token())
	return read(q)
}

func token() string {
	q, _ := http.NewRequest(http.MethodGet, os.Args[2]+"/token", nil)
	q.SetBasicAuth(os.Args[3], os.Args[4])
	var t struct{ Token string }
	json.NewDecoder(strings.NewReader(string(read(q)))).Decode(&t)
	return t.Token
}

func read(q *http.Request) []byte {
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		return nil
	}
	defer a.Body.Close()
	data, _ := io.ReadAll(a.Body)
	return data
}

func unused() {}
