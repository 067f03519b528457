package isolation_test

import (
	"bytes"
	"cmp"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/oci"
)

// requests is how many there are, and the seed: both may be set from outside.
func requests(t *testing.T, short int) (n int, seed uint64) {
	t.Helper()
	n, seed = short, uint64(time.Now().UnixNano())
	if os.Getenv("BERTH_LONG") != "" {
		n = 100_000
	}
	if s := os.Getenv("BERTH_REQUESTS"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	if s := os.Getenv("BERTH_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("BERTH_SEED=%d", seed)
	return n, seed
}

// errand is one request.
type errand struct {
	seat

	shown   []shown // how the caller says who it is: in one form, in several, or in none
	method  string
	path    string
	header  []string
	kind    oci.Kind   // 0: a list
	digest  oci.Digest // that is asked for, also by tag; empty: none such
	tag     string
	exists  bool
	plain   bool // nothing about it is odd: it has to succeed where it may
	foreign bool // the name begins with another organisation
}

// shown is one way in which a caller says who it is.
type shown struct {
	user, token string
	meta        bool // in X-Meta-Berth, and not as a login
}

// who is all that is shown of users.
func (e *errand) who() (all string) {
	for _, s := range e.shown {
		all += s.user + " "
	}
	return all
}

// headers are those of the request.
func (e *errand) headers() []string {
	all := slices.Clone(e.header)
	for _, s := range e.shown {
		if s.meta {
			all = append(all, "X-Meta-Berth", s.user+":"+s.token)
			continue
		}
		all = append(all, "Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(s.user+":"+s.token)))
	}
	return all
}

// proved says whether all that is shown is the organisation's own, and one account.
func (m *model) proved(e *errand) bool {
	for _, s := range e.shown {
		organisation, _, _ := strings.Cut(s.user, "+")
		login, there := m.tokens[organisation]
		good := s.token == m.headers[organisation] || !s.meta && s.token == login
		if !there || !good || organisation != e.org || s.user != e.shown[0].user {
			return false
		}
	}
	return len(e.shown) > 0
}

// identity chooses how e says who it is.
func (m *model) identity(e *errand) {
	own := func(org string, meta bool) shown {
		token := m.headers[org]
		if !meta && m.rng.IntN(3) > 0 {
			token = cmp.Or(m.tokens[org], m.removed[org])
		}
		return shown{user: org, token: token, meta: meta}
	}
	e.shown = []shown{own(e.org, m.rng.IntN(3) == 0)}
	switch m.rng.IntN(40) {
	case 0: // a token of somebody else's
		e.shown[0].token = own(pick(m, m.names), e.shown[0].meta).token
	case 1:
		e.shown = nil
	case 2:
		e.shown[0].user += "+acct-" + pick(m, m.names)
	case 3, 4, 5:
		e.shown[0].user += "+acct-" + e.org // its only one anyway
	case 6: // a login's token where only those for headers are taken
		e.shown = []shown{{e.org, cmp.Or(m.tokens[e.org], m.removed[e.org]), true}}
	case 7, 8: // both forms, about one
		e.shown = []shown{own(e.org, false), own(e.org, true)}
	case 9, 10: // both forms, and each is right, but they disagree
		e.shown = []shown{own(e.org, false), own(pick(m, m.names), true)}
	case 11:
		e.shown = []shown{own(pick(m, m.names), false), own(e.org, true)}
	case 12: // one is right, the other is nobody's
		e.shown = append(e.shown, shown{e.org, "stolen", !e.shown[0].meta})
	case 13: // the same form twice
		e.shown = append(e.shown, own(pick(m, m.names), e.shown[0].meta))
	}
	twice := len(e.shown) == 2 && e.shown[0].meta == e.shown[1].meta
	e.plain = e.plain && !twice && m.proved(e) && (!strings.Contains(e.who(), "+") || strings.Contains(e.who(), "+acct-"+e.org+" ") && m.accountOf(e.org, e.repo.at) != nil)
	if twice {
		e.shown[1].user += "+twice" // proves nothing, whatever is in it
	}
}

func pick[T any](m *model, all []T) T { return all[m.rng.IntN(len(all))] }

func (m *model) errand() errand {
	e := errand{seat: seat{pick(m, m.names), pick(m, m.repos), m.rng.IntN(len(m.nodes))}, method: http.MethodGet, plain: true}
	for e.org == villain && m.evil.under() { // which waits for its own limits then
		e.org = pick(m, m.names)
	}
	for range m.rng.IntN(40) { // mostly what is their own
		if m.allows(e.seat) {
			break
		}
		e.repo = pick(m, m.repos)
	}
	reference := m.reference(&e)
	e.path = m.spell(&e) + reference
	if m.rng.IntN(4) == 0 {
		e.method = http.MethodHead
	}
	m.conditions(&e)
	m.identity(&e)
	return e
}

// reference chooses what is asked for.
func (m *model) reference(e *errand) string {
	e.kind = oci.Blob
	if m.rng.IntN(2) == 0 {
		e.kind = oci.Manifest
	}
	from := e.repo
	if m.rng.IntN(3) == 0 {
		from = pick(m, m.repos) // a digest of somebody else's
	}
	switch m.rng.IntN(12) {
	case 0:
		e.kind = 0
		return "/tags/list"
	case 1:
		e.kind = 0
		return "/referrers/" + pick(m, slices.Sorted(maps.Keys(from.manifests))).String()
	case 2, 3, 4, 5:
		e.kind = oci.Manifest
		e.tag = pick(m, []string{"v1", "v1", "v2", "loot", "none"})
		e.digest, e.exists = e.repo.tags[e.tag]
		return "/manifests/" + e.tag
	}
	digests := slices.Sorted(maps.Keys(from.blobs))
	if len(digests) == 0 || m.rng.IntN(3) == 0 {
		digests = slices.Sorted(maps.Keys(from.manifests))
	}
	e.digest = pick(m, digests)
	_, e.exists = e.repo.has(e.kind, e.digest)
	reference := e.digest.String()
	switch m.rng.IntN(25) {
	case 0:
		reference, e.exists, e.plain = strings.ToUpper(reference), false, false
	case 1:
		data, _ := from.has(e.kind, e.digest)
		sum := sha512.Sum512(data)
		reference, e.exists = "sha512:"+hex.EncodeToString(sum[:]), false
	}
	return map[oci.Kind]string{oci.Manifest: "/manifests/", oci.Blob: "/blobs/"}[e.kind] + reference
}

// spell is the path of a repository, in one of the ways to write it.
func (m *model) spell(e *errand) string {
	registry, name := e.repo.at.name, e.repo.name
	switch m.rng.IntN(6) {
	case 0:
		return "/" + registry + "/v2/" + name
	case 1:
		return "/v2/" + e.org + "/" + registry + "/" + name
	case 2:
		if other := pick(m, m.names); other != e.org {
			e.foreign, e.plain = true, false
			return "/v2/" + other + "/" + registry + "/" + name
		}
	}
	return "/v2/" + registry + "/" + name
}

func (m *model) conditions(e *errand) {
	if e.kind == 0 || e.method == http.MethodHead || m.rng.IntN(3) > 0 {
		return
	}
	tag := strconv.Quote(e.digest.String())
	e.header = pick(m, [][]string{
		{"Range", "bytes=64-191"},
		{"Range", "bytes=-128"},
		{"Range", "bytes=100-"},
		{"Range", "bytes=0-63,128-255"},
		{"If-None-Match", tag},
		{"If-None-Match", "*"},
		{"Range", "bytes=0-127", "If-Range", tag},
		{"Range", "bytes=0-127", "If-Range", `"other"`},
	})
}

// check looks at an answer with the model as it was when it was asked for.
func (m *model) check(t *testing.T, e *errand, a answer, before []*repository) {
	t.Helper()
	fail := func(format string, args ...any) { t.Errorf("%s (%s): %s", fmt.Sprintf(format, args...), e.repo, a) }
	all := a.everything()
	for _, r := range before { // those whose canaries must not be in it
		if bytes.Contains(all, []byte(r.canary)) {
			fail("bytes of %s went to %s", r, e.org)
		}
		for _, d := range r.tags {
			if m.private[d] == r && !strings.Contains(e.path, d.String()) && bytes.Contains(all, []byte(d.String())) {
				fail("%s learns a digest of %s", e.org, r)
			}
		}
	}
	for _, name := range m.names {
		if a.status >= 400 && name != e.org && !strings.Contains(e.path+e.who(), name) && bytes.Contains(all, []byte(name)) {
			fail("%s is told of %s", e.org, name)
		}
	}
	for _, secret := range m.secrets {
		if bytes.Contains(all, []byte(secret)) {
			fail("a password")
		}
	}
	if a.err != nil {
		if e.repo.liar || m.trouble(e.view()) != healthy {
			return
		}
		fail("broken off")
		return
	}
	m.checkStatus(e, a, fail)
	m.checkBody(e, a, fail)
}

func (m *model) checkStatus(e *errand, a answer, fail func(string, ...any)) {
	proved := m.proved(e)
	state, may := m.trouble(e.view()), m.may(e.seat)
	ok := a.status < 400 || a.status == http.StatusRequestedRangeNotSatisfiable
	allowed := m.allows(e.seat) || may
	switch {
	case !proved:
		if a.status != http.StatusUnauthorized && (a.status != http.StatusBadRequest || e.plain) {
			fail("nobody was let in")
		}
		m.counts["unproven"]++
	case a.status == http.StatusUnauthorized:
		fail("401 to somebody who is known")
	case e.repo.at == m.hostile && e.org != villain:
		if ok { // a name that means nothing to them
			fail("somebody else's registry was read")
		}
	case e.foreign:
		if a.status != http.StatusForbidden && a.status != http.StatusNotFound && a.status != http.StatusBadRequest {
			fail("another organisation's name was read")
		}
	case ok && !allowed && !e.repo.public:
		fail("%s may not read this", e.org)
	case m.evil != nil && e.org == villain && slices.Contains([]int{429, 503}, a.status):
		m.counts[fmt.Sprintf("refused %d to the villain", a.status)]++ // by its own doing
	case !ok && e.plain && state == healthy && m.allows(e.seat) && e.exists && !e.repo.liar && !m.justMissed(e):
		fail("%s may read this", e.org)
	case ok:
		m.counts["served "+a.header.Get("Warning")[:min(len(a.header.Get("Warning")), 25)]]++
	case state == healthy && !e.repo.liar && !slices.Contains([]int{400, 403, 404}, a.status):
		fail("no refusal looks like this")
	case !slices.Contains([]int{400, 403, 404, 429, 503}, a.status):
		fail("no trouble looks like this")
	default:
		m.counts[fmt.Sprintf("refused %d", a.status)]++
	}
}

func (m *model) justMissed(e *errand) bool {
	at, ok := m.missed[e.org+e.repo.String()+e.path[strings.LastIndexByte(e.path, '/'):]]
	return ok && m.clock.now().Sub(at) < 5*time.Second+slack
}

// checkBody compares what came with what there is.
func (m *model) checkBody(e *errand, a answer, fail func(string, ...any)) {
	if e.kind == 0 || e.method == http.MethodHead {
		return
	}
	switch a.status {
	case http.StatusOK:
		d := e.digest
		if named := a.header.Get("Docker-Content-Digest"); named != "" {
			d = oci.Digest(named)
		}
		if got := d.Algorithm().FromBytes(a.body); got != d || e.tag == "" && strings.Contains(e.path, "sha256:") && got != e.digest {
			fail("the bytes have the digest %s", got)
		}
	case http.StatusPartialContent:
		data, _ := e.repo.has(e.kind, e.digest)
		if e.repo.liar && m.past(e.digest) {
			return // a part cannot be verified, and whoever brought the registry lies to himself
		}
		if len(data) == 0 || !strings.HasPrefix(a.header.Get("Content-Type"), "multipart/") && !bytes.Contains(data, a.body) {
			fail("other bytes")
		}
	}
}

// past says that what a registry of an organisation's has under d goes past the cache: it
// is larger than an eighth of that, which is all that such a registry may fill.
func (m *model) past(d oci.Digest) bool {
	r := m.private[d]
	return r != nil && int64(len(r.blobs[d])) > m.cache.MaxSize/8
}

// learn brings the model up to date with an answer.
func (m *model) learn(e *errand, a answer) {
	now := m.clock.now()
	state := m.trouble(e.view())
	if !m.proved(e) || e.foreign {
		return
	}
	if a.status == http.StatusNotFound {
		m.missed[e.org+e.repo.String()+e.path[strings.LastIndexByte(e.path, '/'):]] = now
	}
	switch {
	case state.hears() && m.allows(e.seat):
		m.proven[e.seat] = now
	case a.status == http.StatusForbidden && !strings.Contains(e.who(), "+"):
		delete(m.proven, e.seat)
	}
}

// event is what happens between requests.
func (m *model) event() string {
	p := m.places[m.rng.IntN(3)]
	a := pick(m, m.accounts)
	for _, at := range m.places {
		if at.name == a.registry {
			p = at
		}
	}
	user, _ := a.get()
	switch m.rng.IntN(12) {
	case 11:
		if m.evil != nil {
			m.limited.Store(!m.limited.Load())
		}
		return fmt.Sprint("the villain is limited: ", m.limited.Load())
	case 10: // an organisation goes, or comes back; its tokens have been stolen
		back := false
		for name, token := range m.removed { // one at a time
			m.tokens[name], back = token, true
			delete(m.removed, name)
		}
		if !back {
			m.removed[a.organisation] = m.tokens[a.organisation]
			delete(m.tokens, a.organisation)
		}
		for _, n := range m.nodes {
			n.configure()
		}
		return "remove or return " + a.organisation
	case 0, 1: // a new secret, here and there
		password := "pass-" + hex.EncodeToString(m.bytes(10))
		m.secrets = append(m.secrets, password)
		p.reg.SetPassword(user, password)
		a.set(user, password)
		m.good[a] = true
		m.forget(a)
		return "rotate " + a.organisation
	case 2: // a new secret that is wrong
		password := "pass-" + hex.EncodeToString(m.bytes(10))
		m.secrets = append(m.secrets, password)
		a.set(user, password)
		m.good[a] = false
		m.forget(a)
		return "break " + a.organisation
	case 3, 4:
		repo := pick(m, []string{"team/app", "team/web", a.organisation + "/own"})
		m.rights[a][repo] = !m.rights[a][repo]
		m.grant(a)
		m.clock.forward(6 * time.Second) // what was missing is forgotten
		return "rights " + a.organisation + " " + repo
	case 5, 6:
		state := healthy
		if m.calm(p) && m.rng.IntN(2) == 0 {
			state = 1 + trouble(m.rng.IntN(int(troubles)-1))
		}
		if state == resetting && m.rng.IntN(3) > 0 {
			state = failing // each costs the pauses of its retries
		}
		m.state[p].Store(int32(state))
		if state == healthy {
			m.clock.forward(61 * time.Second)
		}
		return fmt.Sprint("trouble ", p.name, state)
	case 7:
		i := m.rng.IntN(len(m.nodes))
		if m.evil.end() {
			defer m.evil.begin()
		}
		m.nodes[i].restart()
		if e := m.elsewhere; e != nil {
			if e.evil.end() {
				defer e.evil.begin()
			}
			e.nodes[i].restart()
		}
		m.booted[i] = m.clock.now()
		return fmt.Sprint("restart ", i)
	}
	d := pick(m, []time.Duration{10 * time.Second, 61 * time.Second, 4*time.Minute + 30*time.Second, 6 * time.Minute, 2 * time.Hour, 25 * time.Hour})
	m.clock.forward(d)
	return d.String()
}

// calm says that p is well, and that every node knows it.
func (m *model) calm(p *place) bool {
	for i := range m.nodes {
		if m.trouble(view{i, p}) != healthy {
			return false
		}
	}
	return true
}

// forget drops what was proven with a secret that is gone.
func (m *model) forget(a *account) {
	maps.DeleteFunc(m.proven, func(s seat, _ time.Time) bool { return s.org == a.organisation && s.repo.at.name == a.registry })
}

// Whatever organisations ask for, in whatever way, and whatever happens to
// registries, rights, secrets, the clock and the node meanwhile: nobody gets a
// byte of what is another's, and everybody what is their own.
func TestNothingCrosses(t *testing.T) {
	t.Parallel()
	n, seed := requests(t, 5000)
	m := newModel(newHarbour(t, seed))
	m.start()
	m.ask(t, n, func() []string { return nil })
}

// ask asks n times, as anybody, and looks at what comes. Between requests things happen
// to the world, and at times also looks at what nobody has asked for.
func (m *model) ask(t *testing.T, n int, also func() (troubles []string)) {
	t.Helper()
	var clients []*client
	for _, w := range m.nodes {
		clients = append(clients, w.with("", "")) // everybody's, so that organisations share connections
	}
	var events []string
	look := func() {
		m.lookAtLog(t)
		for _, trouble := range also() {
			t.Error(trouble)
		}
	}
	for done := 0; done < n && !t.Failed(); {
		m.look()
		done += m.burst(t, clients)
		if len(m.nodes) > 1 && m.rng.IntN(10) == 0 { // chance alone pulls no whole image
			done += m.pull(t, clients)
		}
		for _, p := range m.places { // once is enough: each costs the pauses of its retries
			m.state[p].CompareAndSwap(int32(resetting), int32(failing))
		}
		if m.rng.IntN(6) == 0 {
			events = append(events, m.event())
		}
		if m.rng.IntN(60) == 0 {
			look()
			for _, p := range m.places {
				p.reg.Forget()
			}
		}
	}
	look()
	if t.Failed() {
		t.Logf("the last events: %v", events[max(0, len(events)-40):])
	}
	for what, n := range m.counts {
		t.Logf("%6d %s", n, what)
	}
	for _, p := range m.places { // so that registries end in peace
		m.state[p].Store(int32(healthy))
	}
}

// burst asks several times at once, and says how often.
func (m *model) burst(t *testing.T, clients []*client) int {
	t.Helper()
	burst := make([]errand, 1+m.rng.IntN(8))
	answers := make([]answer, len(burst))
	hidden := make([][]*repository, len(burst))
	took := make([]time.Duration, len(burst))
	var all sync.WaitGroup
	for i := range burst {
		burst[i] = m.errand()
		e := &burst[i]
		if i > 0 && m.rng.IntN(3) == 0 { // somebody else wants the same
			e.path, e.kind, e.digest, e.tag, e.header, e.method = burst[0].path, burst[0].kind, burst[0].digest, burst[0].tag, burst[0].header, burst[0].method
			e.repo, e.exists, e.plain = burst[0].repo, burst[0].exists, e.plain && burst[0].plain && !strings.HasPrefix(e.path, "/v2/org-")
			prefix, named := strings.CutSuffix(e.path[:strings.Index(e.path+"/"+e.repo.at.name+"/", "/"+e.repo.at.name+"/")], "/v2")
			e.foreign = !named && strings.HasPrefix(prefix, "/v2/org-") && prefix != "/v2/"+e.org
		}
		hidden[i] = m.hidden(e)
	}
	for i := range burst {
		e := &burst[i]
		all.Go(func() {
			begun := time.Now()
			answers[i] = clients[e.node].do(e.method, e.path, e.headers()...)
			took[i] = time.Since(begun)
		})
	}
	all.Wait()
	for i := range burst {
		m.check(t, &burst[i], answers[i], hidden[i])
		if e := &burst[i]; e.org != villain && answers[i].ok() && m.trouble(e.view()) == healthy {
			m.waits.note(m.evil.under(), took[i])
		}
	}
	for i := range burst {
		m.learn(&burst[i], answers[i])
	}
	return len(burst)
}

// hidden are the repositories of which nothing must be in the answer to e.
func (m *model) hidden(e *errand) (all []*repository) {
	for _, r := range m.repos {
		if !r.public && r.canary != "" && !m.may(seat{e.org, r, e.node}) {
			all = append(all, r)
		}
	}
	return all
}

// pull gets all of an image that somebody may have, at one node after the other, as
// container engines do, and says how often it asked.
func (m *model) pull(t *testing.T, clients []*client) (asked int) {
	t.Helper()
	s := seat{pick(m, m.names), pick(m, m.repos), 0}
	for range 40 {
		if m.allows(s) && m.calm(s.repo.at) && !s.repo.liar && m.tokens[s.org] != "" {
			break
		}
		s = seat{pick(m, m.names), pick(m, m.repos), 0}
	}
	indexes := slices.Sorted(maps.Values(s.repo.tags))
	var manifests []oci.Digest
	for _, d := range slices.Sorted(maps.Keys(s.repo.manifests)) {
		if !slices.Contains(indexes, d) {
			manifests = append(manifests, d)
		}
	}
	for _, s.node = range m.rng.Perm(len(m.nodes)) {
		for i, d := range slices.Concat(indexes, manifests, slices.Sorted(maps.Keys(s.repo.blobs))) {
			e := &errand{seat: s, method: http.MethodGet, kind: oci.Blob, digest: d, exists: true, plain: true, shown: []shown{{user: s.org, token: cmp.Or(m.tokens[s.org], m.removed[s.org])}}}
			e.path = "/v2/" + s.repo.String() + "/blobs/" + d.String()
			if i < len(indexes)+len(manifests) {
				e.kind, e.path = oci.Manifest, "/v2/"+s.repo.String()+"/manifests/"+d.String()
			}
			m.look()
			hidden := m.hidden(e)
			a := clients[s.node].do(e.method, e.path, e.headers()...)
			m.check(t, e, a, hidden)
			m.learn(e, a)
			asked++
		}
	}
	return asked
}

func (m *model) lookAtLog(t *testing.T) {
	t.Helper()
	log := m.log.take()
	if strings.Contains(log, "CANARY") {
		t.Error("what is private is in the log")
	}
	for _, secret := range slices.Concat(slices.Collect(maps.Values(m.tokens)), slices.Collect(maps.Values(m.headers)), slices.Collect(maps.Values(m.removed)), m.secrets) {
		if strings.Contains(log, secret) {
			t.Errorf("a secret is in the log: %s", secret)
		}
	}
}
