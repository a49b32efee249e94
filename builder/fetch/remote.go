package fetch

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// remote is where a repository is.
type remote struct {
	url   string // for git: an http(s) one is without user and password
	shown string // for people
	host  string // with the port, as in the names of secrets
	http  bool
	basic string // the user and password of an http(s) remote, as for basic authentication; "" if none
}

// parseRemote takes what git takes for http, https, ssh and git, also in the form user@host:path.
// The program never sees anything else, above all no option and no remote helper.
func parseRemote(raw string) (remote, error) {
	if strings.HasPrefix(raw, "-") || strings.ContainsAny(raw, "\x00\n\r") {
		return remote{}, fmt.Errorf("invalid git remote %q", raw)
	}
	if strings.HasPrefix(raw, "github.com/") { // the one host that needs no scheme (Dockerfile reference, ADD)
		raw = "https://" + raw
	}
	scheme, _, ok := strings.Cut(raw, "://")
	if !ok {
		return parseSCP(raw)
	}
	scheme = strings.ToLower(scheme)
	if !slices.Contains([]string{"http", "https", "ssh", "git"}, scheme) {
		return remote{}, fmt.Errorf("invalid git remote: protocol %q is none of http, https, ssh and git", scheme)
	}
	u, err := url.Parse(raw)
	if err != nil {
		var ue *url.Error // holds the URL, which may hold a password
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return remote{}, fmt.Errorf("invalid git remote: %w", err)
	}
	if u.Host == "" || strings.HasPrefix(u.Host, "-") || u.User != nil && strings.HasPrefix(u.User.Username(), "-") {
		return remote{}, fmt.Errorf("invalid git remote %q: no host", redacted(u))
	}
	u.Scheme = scheme
	r := remote{host: u.Host, http: scheme == "http" || scheme == "https"}
	if r.http && u.User != nil {
		password, _ := u.User.Password()
		r.basic = u.User.Username() + ":" + password
	}
	if user := u.User; user != nil {
		u.User = nil
		if scheme == "ssh" { // the user is part of the address, a password is of no use
			u.User = url.User(user.Username())
		}
	}
	u.Fragment = ""
	r.url = u.String()
	r.shown = r.url
	return r, nil
}

func parseSCP(raw string) (remote, error) {
	address, path, ok := strings.Cut(raw, ":")
	user, host, at := strings.Cut(address, "@")
	if !ok || !at || user == "" || host == "" || path == "" || strings.HasPrefix(host, "-") || strings.ContainsAny(address, "/:") ||
		strings.HasPrefix(path, ":") {
		return remote{}, fmt.Errorf("invalid git remote %q", raw)
	}
	return remote{url: raw, shown: raw, host: host}, nil
}

// addAuth gives g what authenticates it at the remote: a secret of the build, else the user and password of the URL.
func (c *Client) addAuth(g *git, r remote) error {
	if !r.http {
		return nil
	}
	id, v, err := c.secret("GIT_AUTH_HEADER."+r.host, "GIT_AUTH_TOKEN."+r.host, "GIT_AUTH_HEADER", "GIT_AUTH_TOKEN")
	if err != nil {
		return err
	}
	switch {
	case strings.HasPrefix(id, "GIT_AUTH_TOKEN"):
		g.secrets = append(g.secrets, v)
		v = "basic " + base64.StdEncoding.EncodeToString([]byte("x-access-token:"+v))
	case id == "" && r.basic != "":
		v = "basic " + base64.StdEncoding.EncodeToString([]byte(r.basic))
	case id == "":
		return nil
	}
	if v == "" {
		return nil
	}
	g.secrets = append(g.secrets, v)
	scope := tokenScope(r.url)
	// git would send the header to where it is redirected, too.
	g.config = append(g.config, "http."+scope+".extraHeader", "Authorization: "+v, "http."+scope+".followRedirects", "false")
	return nil
}

// tokenScope is the URLs for which the credentials of a remote are good: the remote, but on github.com all
// repositories, so that private submodules are found (as BuildKit and actions/checkout do it).
func tokenScope(url string) string {
	for _, prefix := range []string{"https://github.com/", "https://www.github.com/"} {
		if strings.HasPrefix(url, prefix) {
			return prefix
		}
	}
	return url
}
