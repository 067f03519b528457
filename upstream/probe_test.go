package upstream

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"berth/internal/ocitest"
	"berth/oci"
	"berth/upstream/dialect"
)

// deadWays are the ways in which a registry is dead.
func deadWays() map[string]ocitest.Fault {
	return map[string]ocitest.Fault{
		"mute": ocitest.Silence(), "reset": ocitest.Drop(), "503": ocitest.Status(503), "500": ocitest.Status(500), "522": ocitest.Status(522),
	}
}

// findsOut makes the node find out that a registry is dead, by pulls of what it has.
func (v *voyage) findsOut(s oci.Source, img ocitest.Pushed) {
	v.t.Helper()
	for range 30 {
		if v.registry.Troubled() {
			return
		}
		if r, err := s.Resolve(v.t.Context(), img.Repo, img.Tag); err != nil || r.Digest != img.Digest {
			v.t.Errorf("in the outage: %s, %v", r.Digest, err)
		}
		time.Sleep(time.Second)
	}
	v.t.Error("nobody finds out that the registry is dead")
}

// A client who asks once, a second after a registry is back, has what it says now; and
// the node has asked little meanwhile.
func TestRecovery_OneClientWhoAsksOnce(t *testing.T) {
	for name, fault := range deadWays() {
		for _, outage := range []time.Duration{time.Minute, time.Hour} {
			for _, often := range []time.Duration{0, 700 * time.Millisecond, 29 * time.Second} { // others, meanwhile
				if often > 0 && often < time.Second && outage > time.Minute {
					continue // it is the same for as long as it takes
				}
				t.Run(fmt.Sprint(name, " ", outage, " ", often), func(t *testing.T) {
					sail(t, ocitest.Options{Auth: ocitest.Bearer, Private: true}, dialect.Generic, func(v *voyage) { v.comesBack(fault, outage, often) })
				})
			}
		}
	}
}

func (v *voyage) comesBack(fault ocitest.Fault, outage, often time.Duration) {
	acme := v.as("acme")
	img := v.up.AddImage("acme/app", "1", ocitest.Image{Index: true, Layers: []int64{1000}})
	if err := pull(v.t.Context(), acme, img); err != nil {
		v.t.Fatal(err)
	}
	time.Sleep(10 * time.Minute)
	dead := v.up.Inject(ocitest.Match{}, 0, fault)
	begin := time.Now()
	v.findsOut(acme, img)
	v.up.Forget()
	clients := 0
	for often > 0 && time.Since(begin)+often < outage {
		time.Sleep(often)
		clients++
		if _, err := acme.Resolve(v.t.Context(), "acme/app", "1"); err != nil {
			v.t.Error(err)
		}
	}
	time.Sleep(outage - time.Since(begin))
	n, most := len(v.up.Requests(ocitest.Match{})), 6+clients+int(outage/lastProbe)
	if most = min(most, int(outage/probeEvery)); n > most {
		v.t.Errorf("%d requests in %v, with %d of clients; want at most %d", n, outage, clients, most)
	}
	v.t.Logf("%d requests in %v, with %d of clients", n, outage, clients)
	dead.Remove()
	moved := v.up.AddImage("acme/app", "1", ocitest.Image{Index: true, Layers: []int64{2000}, Seed: 9})
	v.recovers(acme, img)
	if r, err := acme.Resolve(v.t.Context(), "acme/app", "1"); err != nil || r.Digest != moved.Digest {
		v.t.Errorf("the tag is %s, %v, want %s", r.Digest, err, moved.Digest)
	}
	if err := pull(v.t.Context(), acme, moved); err != nil {
		v.t.Error(err)
	}
}

// Whatever others ask meanwhile, and whenever the last try began: what is found out within
// a second of the return is fresh.
func TestRecovery_WhileOthersAsk(t *testing.T) {
	kinds := map[string]ocitest.Options{
		"open": {}, "its own tokens": {Auth: ocitest.Bearer, Private: true}, "tokens elsewhere": {Auth: ocitest.Bearer, Private: true, TokenServer: true},
	}
	for _, way := range []string{"mute", "503"} {
		for kind, o := range kinds {
			for phase := range 6 {
				t.Run(fmt.Sprint(way, " ", kind, " ", phase), func(t *testing.T) {
					sail(t, o, dialect.Generic, func(v *voyage) {
						v.amongOthers(deadWays()[way], time.Minute+time.Duration(phase)*133*time.Millisecond)
					})
				})
			}
		}
	}
}

func (v *voyage) amongOthers(fault ocitest.Fault, outage time.Duration) {
	acme := v.as("acme")
	var images []ocitest.Pushed
	for _, repo := range []string{"acme/other", "acme/app"} {
		images = append(images, v.up.AddImage(repo, "1", ocitest.Image{Index: true, Layers: []int64{1000}}))
		if err := pull(v.t.Context(), acme, images[len(images)-1]); err != nil {
			v.t.Fatal(err)
		}
	}
	time.Sleep(10 * time.Minute)
	dead := v.up.Inject(ocitest.Match{}, 0, fault)
	end := time.Now().Add(outage)
	v.findsOut(acme, images[1])
	var others sync.WaitGroup
	for n := 0; time.Until(end) > 0; n++ {
		time.Sleep(min(time.Until(end), 170*time.Millisecond))
		others.Go(func() {
			v.within(time.Second, "a copy", func() {
				if _, err := acme.Resolve(v.t.Context(), images[n%3%2].Repo, "1"); err != nil {
					v.t.Error(err)
				}
			})
		})
	}
	dead.Remove()
	v.recovers(acme, images[1])
	others.Wait()
}

// Nobody has to ask for the node to see that a registry, or its token endpoint, is back.
func TestRecovery_NobodyAsks(t *testing.T) {
	for _, server := range []ocitest.Server{ocitest.RegistryServer, ocitest.TokenServer} {
		for name, fault := range deadWays() {
			sail(t, ocitest.Options{Auth: ocitest.Bearer, Private: true, TokenServer: true}, dialect.Generic, func(v *voyage) {
				acme := v.as("acme")
				img := v.up.AddImage("acme/app", "1", ocitest.Image{Index: true, Layers: []int64{1000}})
				if err := pull(v.t.Context(), acme, img); err != nil {
					v.t.Fatal(err)
				}
				time.Sleep(10 * time.Minute) // the token is too old by then
				dead := v.up.Inject(ocitest.Match{Server: server}, 0, fault)
				v.findsOut(acme, img)
				time.Sleep(20 * time.Minute)
				dead.Remove()
				time.Sleep(lastProbe*5/4 + headerTimeout) // a probe of before may still wait
				if open := testutil.ToFloat64(v.registry.metrics.open.WithLabelValues("registry.test")); open != 0 || v.registry.Troubled() {
					v.t.Errorf("%s, %s: still in trouble", server, name)
				}
			})
		}
	}
}

// Whoever asked last may have lost its account meanwhile. The node sees that the registry
// is back all the same, does not log in again and again, and another client is not told
// about the outage.
func TestRecovery_WhoAskedLastHasLostItsAccount(t *testing.T) {
	for name, fault := range deadWays() {
		for _, elsewhere := range []bool{false, true} {
			for _, lost := range []string{"password", "403 page", "200 page", "limited"} {
				t.Run(fmt.Sprint(name, " ", elsewhere, " ", lost), func(t *testing.T) {
					o := ocitest.Options{Auth: ocitest.Bearer, Private: true, TokenServer: elsewhere}
					sail(t, o, dialect.Generic, func(v *voyage) { v.losesAnAccount(fault, lost) })
				})
			}
		}
	}
}

func (v *voyage) losesAnAccount(fault ocitest.Fault, lost string) {
	acme, globex := v.as("acme"), v.as("globex")
	img := v.up.AddImage("acme/app", "1", ocitest.Image{Index: true, Layers: []int64{1000}})
	for _, s := range []oci.Source{acme, globex} {
		if err := pull(v.t.Context(), s, img); err != nil {
			v.t.Fatal(err)
		}
	}
	time.Sleep(10 * time.Minute) // no token is left
	dead := v.up.Inject(ocitest.Match{}, 0, fault)
	v.findsOut(globex, img)
	logins := ocitest.Match{Kind: ocitest.Token, Where: func(r ocitest.Request) bool {
		user, _, _ := (&http.Request{Header: r.Header}).BasicAuth()
		return user == "globex-bot"
	}}
	switch lost {
	case "password":
		v.up.SetPassword("globex-bot", "another")
	case "403 page":
		v.up.Inject(logins, 0, page(http.StatusForbidden))
	case "200 page":
		v.up.Inject(logins, 0, page(http.StatusOK))
	case "limited":
		v.up.Inject(logins, 0, ocitest.Status(429, "Retry-After", "3600"))
	}
	v.up.Forget()
	dead.Remove()
	time.Sleep(2 * lastProbe)
	if v.registry.Troubled() {
		v.t.Error("still in trouble")
	}
	v.recovers(acme, img)
	if n := v.up.Count(logins); n > 3 {
		v.t.Errorf("%d logins", n)
	}
}

// Whoever comes first after an outage with an account that is no good has found out nothing
// about the registry: the next is not told what was remembered.
func TestRecovery_AfterATryInVain(t *testing.T) {
	tries := 0
	for _, elsewhere := range []bool{false, true} {
		for phase := range 8 {
			o := ocitest.Options{Auth: ocitest.Bearer, Private: true, TokenServer: elsewhere}
			sail(t, o, dialect.Generic, func(v *voyage) {
				acme, globex := v.as("acme"), v.as("globex")
				img := v.up.AddImage("acme/app", "1", ocitest.Image{Index: true, Layers: []int64{1000}})
				for _, s := range []oci.Source{acme, globex} {
					if err := pull(v.t.Context(), s, img); err != nil {
						v.t.Fatal(err)
					}
				}
				time.Sleep(10 * time.Minute)
				dead := v.up.Inject(ocitest.Match{Kind: ocitest.Manifest}, 0, ocitest.Drop())
				for range 10 { // both, so that it is open for everybody
					for _, s := range []oci.Source{globex, acme} {
						_, _ = s.Resolve(v.t.Context(), img.Repo, img.Tag) // a copy
					}
					time.Sleep(time.Second)
				}
				time.Sleep(10 * time.Minute)
				v.up.SetPassword("globex-bot", "another")
				time.Sleep(time.Duration(phase) * probeEvery)
				dead.Remove()
				v.up.Forget()
				_, err := globex.Resolve(v.t.Context(), img.Repo, img.Tag)
				if v.up.TokenRequests() == 0 {
					return // the last probe is less than a second old
				}
				if tries++; err == nil {
					v.t.Error("it has no account")
				}
				r, err := acme.Resolve(v.t.Context(), img.Repo, img.Tag)
				if err != nil || r.Warning != "" {
					v.t.Errorf("elsewhere %v, phase %d: %q, %v", elsewhere, phase, r.Warning, err)
				}
			})
		}
	}
	if tries < 4 {
		t.Errorf("%d tries", tries)
	}
}

// A hundred nodes behind one address do not ask all at once, and little.
func TestRecovery_AHundredNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := ocitest.NewMemoryNet()
		up := ocitest.New(t, ocitest.Options{Net: memory, Fault: func(ocitest.Request) ocitest.Fault { return ocitest.Status(503) }})
		for range 100 {
			src := dialled(t, up, memory, dialect.Generic).As(Identity{})
			for range breakerLimit {
				if _, err := src.Resolve(t.Context(), "acme/app", "1"); err == nil {
					t.Fatal("no outage")
				}
			}
		}
		time.Sleep(time.Minute)
		up.Forget()
		begin := time.Now()
		time.Sleep(10 * time.Minute)
		inSecond := map[int]int{}
		for _, r := range up.Requests(ocitest.Match{}) {
			inSecond[int(r.Start.Sub(begin).Seconds())]++
		}
		most, all := 0, 0
		for _, n := range inSecond {
			most, all = max(most, n), all+n
		}
		t.Logf("%d requests in ten minutes, at most %d in one second", all, most)
		if all > 100*600/int(lastProbe/time.Second) || all < 100*600/10*9/10 || most > 40 {
			t.Errorf("%d requests in ten minutes, %d in one second", all, most)
		}
	})
}

// Where nobody has wanted anything for long, the node stops asking, and whoever comes
// then finds out.
func TestRecovery_EndsWhereNobodyPulls(t *testing.T) {
	sail(t, ocitest.Options{}, dialect.Generic, func(v *voyage) {
		s := v.as("")
		img := v.up.AddImage("acme/app", "1", ocitest.Image{Layers: []int64{1000}})
		if err := pull(v.t.Context(), s, img); err != nil {
			v.t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		dead := v.up.Inject(ocitest.Match{}, 0, ocitest.Drop())
		v.findsOut(s, img)
		time.Sleep(probeFor + time.Minute)
		v.up.Forget()
		time.Sleep(10 * time.Hour)
		if n := v.up.Count(ocitest.Match{}); n > 0 {
			v.t.Errorf("%d requests that nobody waits for", n)
		}
		if r, err := s.Resolve(v.t.Context(), "acme/app", "1"); err != nil || r.Warning == "" {
			v.t.Errorf("%q, %v", r.Warning, err)
		}
		v.up.Forget()
		time.Sleep(time.Minute)
		if n := v.up.Count(ocitest.Match{}); n < 6 || n > 12 {
			v.t.Errorf("%d requests in the minute after somebody came", n)
		}
		dead.Remove()
		v.recovers(s, img)
	})
}
