package remotetest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Actions works like the cache service of GitHub Actions, version 2: entries that never change, scopes of branches,
// blobs behind signed addresses, and a limit of new entries.
type Actions struct {
	URL string
	// Limit is how many new entries are taken, until a second after the first that is refused; 0 takes all.
	Limit int
	// Finished makes the newest of entries the one that was finished last; else it is the one that was begun last. The service does
	// not say which it is.
	Finished bool
	// Before, if not nil, sees every request first, and says whether it answered it.
	Before func(w http.ResponseWriter, r *http.Request) bool

	mu      sync.Mutex
	entries []*actionsEntry // as they were begun
	ready   int             // how many were finished
	taken   int             // of Limit
	refused time.Time       // when the first was that is beyond the limit
	Created int             // new entries
	Refused int             // of those beyond the limit
	Asked   map[string]int  // requests by what they do
}

type actionsEntry struct {
	scope, key, version string
	blocks              map[string][]byte
	data                []byte
	ready               int // when it was finished; 0: not yet
}

// NewActions starts the service.
func NewActions(t testing.TB) *Actions {
	a := &Actions{Asked: map[string]int{}}
	s := httptest.NewServer(a)
	t.Cleanup(s.Close)
	a.URL = s.URL + "/results/"
	return a
}

// Token is what a job gets that writes in a scope, as "refs/heads/main", and reads it and others.
func Token(write string, read ...string) string {
	type scope struct {
		Scope      string
		Permission int
	}
	scopes := []scope{}
	if write != "" {
		scopes = append(scopes, scope{write, 3})
	}
	for _, r := range read {
		scopes = append(scopes, scope{r, 1})
	}
	ac, _ := json.Marshal(scopes)
	claims, _ := json.Marshal(map[string]any{"ac": string(ac), "exp": 4e9, "nbf": 1})
	return "e30." + base64.RawURLEncoding.EncodeToString(claims) + "."
}

// Drop forgets the entries whose keys begin with prefix, as the service does when it has no room.
func (a *Actions) Drop(prefix string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	var kept []*actionsEntry
	for _, e := range a.entries {
		if !strings.HasPrefix(e.key, prefix) {
			kept = append(kept, e)
		}
	}
	n := len(a.entries) - len(kept)
	a.entries = kept
	return n
}

// Replace changes what entries hold whose keys begin with prefix.
func (a *Actions) Replace(prefix string, change func([]byte) []byte) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, e := range a.entries {
		if strings.HasPrefix(e.key, prefix) {
			e.data = change(bytes.Clone(e.data))
			n++
		}
	}
	return n
}

// Keys are those of all entries, in the order in which they came.
func (a *Actions) Keys() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var keys []string
	for _, e := range a.entries {
		keys = append(keys, e.key)
	}
	return keys
}

func (a *Actions) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if a.Before != nil && a.Before(w, r) {
		return
	}
	if method, ok := strings.CutPrefix(r.URL.Path, "/results/twirp/github.actions.results.api.v1.CacheService/"); ok && r.Method == http.MethodPost {
		a.service(w, r, method)
		return
	}
	if id, ok := strings.CutPrefix(r.URL.Path, "/acct/container/"); ok {
		a.blob(w, r, id)
		return
	}
	http.NotFound(w, r)
}

func twirpError(w http.ResponseWriter, status int, code, msg string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"code": code, "msg": msg})
}

type actionsRequest struct {
	Key         string      `json:"key"`
	Version     string      `json:"version"`
	RestoreKeys []string    `json:"restore_keys"`
	SizeBytes   json.Number `json:"size_bytes"`
}

// scopes reads the token; the first one may be written if write is true.
func scopes(r *http.Request) (list []string, write bool) {
	parts := strings.Split(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), ".")
	if len(parts) != 3 {
		return nil, false
	}
	raw, _ := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		AC string `json:"ac"`
	}
	var ac []struct {
		Scope      string
		Permission int
	}
	_ = json.Unmarshal(raw, &claims)
	_ = json.Unmarshal([]byte(claims.AC), &ac)
	for i, s := range ac {
		list = append(list, s.Scope)
		write = write || i == 0 && s.Permission&2 != 0
	}
	return list, write
}

func (a *Actions) service(w http.ResponseWriter, r *http.Request, method string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.Asked[method]++
	list, write := scopes(r)
	if list == nil {
		twirpError(w, http.StatusUnauthorized, "unauthenticated", "bad token")
		return
	}
	var q actionsRequest
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil || q.Key == "" || len(q.Key) > 512 || strings.Contains(q.Key, ",") || q.Version == "" {
		twirpError(w, http.StatusBadRequest, "invalid_argument", "bad request")
		return
	}
	reply := map[string]any{"ok": false}
	switch method {
	case "GetCacheEntryDownloadURL":
		if i := a.find(list, q); i >= 0 {
			reply = map[string]any{"ok": true, "signed_download_url": a.address(r, i, "r"), "matched_key": a.entries[i].key}
		}
	case "CreateCacheEntry":
		i, status, code := a.create(list[0], write, q)
		if status != 0 {
			if status == http.StatusTooManyRequests {
				w.Header().Set("Retry-After", strconv.Itoa(retryAfter))
			}
			twirpError(w, status, code, "no new entry")
			return
		}
		reply = map[string]any{"ok": true, "signed_upload_url": a.address(r, i, "w")}
	case "FinalizeCacheEntryUpload":
		for i, e := range a.entries {
			if e.scope == list[0] && e.key == q.Key && e.version == q.Version && string(q.SizeBytes) == strconv.Itoa(len(e.data)) {
				a.ready++
				e.ready = a.ready
				reply = map[string]any{"ok": true, "entry_id": strconv.Itoa(i + 1)}
			}
		}
	default:
		twirpError(w, http.StatusNotFound, "bad_route", "no such method")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(reply)
}

func (a *Actions) address(r *http.Request, i int, how string) string {
	return fmt.Sprintf("http://%s/acct/container/%p?se=2030&sig=%s%%2Bsecret", r.Host, a.entries[i], how)
}

// find looks in each scope for the key, then for the newest that begins with it, and then likewise for the others.
func (a *Actions) find(list []string, q actionsRequest) int {
	for _, scope := range list {
		for _, want := range append([]string{q.Key}, q.RestoreKeys...) {
			for _, exact := range []bool{true, false} {
				best := -1
				for i, e := range a.entries {
					fits := e.ready > 0 && e.scope == scope && e.version == q.Version && (e.key == want || !exact && strings.HasPrefix(e.key, want))
					if fits && (best < 0 || !a.Finished || e.ready > a.entries[best].ready) {
						best = i
					}
				}
				if best >= 0 {
					return best
				}
			}
		}
	}
	return -1
}

// retryAfter is how many seconds the service asks to wait.
const retryAfter = 1

func (a *Actions) create(scope string, write bool, q actionsRequest) (i, status int, code string) {
	if !write {
		return 0, http.StatusForbidden, "permission_denied"
	}
	for _, e := range a.entries {
		if e.scope == scope && e.key == q.Key && e.version == q.Version {
			return 0, http.StatusConflict, "already_exists"
		}
	}
	if a.Limit > 0 {
		if !a.refused.IsZero() && time.Since(a.refused) >= retryAfter*time.Second {
			a.taken, a.refused = 0, time.Time{}
		}
		if a.taken >= a.Limit {
			if a.Refused++; a.refused.IsZero() {
				a.refused = time.Now()
			}
			return 0, http.StatusTooManyRequests, "resource_exhausted"
		}
		a.taken++
	}
	a.Created++
	a.entries = append(a.entries, &actionsEntry{scope: scope, key: q.Key, version: q.Version, blocks: map[string][]byte{}})
	return len(a.entries) - 1, 0, ""
}

// blob is Azure's part: Put Blob, Put Block, Put Block List, Get Blob.
func (a *Actions) blob(w http.ResponseWriter, r *http.Request, id string) {
	body, err := io.ReadAll(r.Body)
	a.mu.Lock()
	var e *actionsEntry
	for _, have := range a.entries {
		if fmt.Sprintf("%p", have) == id {
			e = have
		}
	}
	q := r.URL.Query()
	a.Asked[r.Method+" "+q.Get("comp")]++
	if e == nil || err != nil {
		a.mu.Unlock()
		http.NotFound(w, r)
		return
	}
	if r.Method == http.MethodGet && q.Get("sig") == "r+secret" {
		data := e.data
		a.mu.Unlock()
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
		return
	}
	defer a.mu.Unlock()
	switch {
	case r.Method != http.MethodPut || q.Get("sig") != "w+secret":
		w.WriteHeader(http.StatusForbidden)
	case q.Get("comp") == "block":
		e.blocks[q.Get("blockid")] = body
		w.WriteHeader(http.StatusCreated)
	case q.Get("comp") == "blocklist":
		var l struct {
			Latest []string `xml:"Latest"`
		}
		if xml.Unmarshal(body, &l) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		e.data = nil
		for _, id := range l.Latest {
			e.data = append(e.data, e.blocks[id]...)
		}
		w.WriteHeader(http.StatusCreated)
	case r.Header.Get("X-Ms-Blob-Type") == "BlockBlob":
		e.data = body
		w.WriteHeader(http.StatusCreated)
	default:
		w.WriteHeader(http.StatusBadRequest)
	}
}
