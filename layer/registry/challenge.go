package registry

import (
	"net/http"
	"strings"
)

// challenge is what a registry wants to see in Authorization: RFC 9110, section 11.6.1.
type challenge struct {
	scheme string            // "basic", "bearer", or "" for none
	params map[string]string // by lower-case name
}

// bestChallenge chooses of an answer's challenges the first that is known here; bearer goes before basic.
func bestChallenge(h http.Header) challenge {
	var best challenge
	for _, line := range h.Values("Www-Authenticate") {
		for _, ch := range parseChallenges(line) {
			switch {
			case ch.scheme == "bearer" && ch.params["realm"] != "":
				return ch
			case ch.scheme == "basic" && best.scheme == "":
				best = ch
			}
		}
	}
	return best
}

// parseChallenges reads one Www-Authenticate value, which may hold several challenges. It takes what it understands
// and stops where the grammar is broken.
func parseChallenges(s string) []challenge {
	var all []challenge
	for {
		s = strings.TrimLeft(s, " \t,")
		word, rest := token(s)
		if word == "" {
			return all
		}
		after := strings.TrimLeft(rest, " \t")
		if value, tail, ok := parameter(after); ok && len(all) > 0 {
			last := all[len(all)-1]
			if key := strings.ToLower(word); last.params[key] == "" {
				last.params[key] = value
			}
			s = tail
			continue
		}
		all = append(all, challenge{scheme: strings.ToLower(word), params: map[string]string{}})
		s = after
		if s != "" && s == rest && s[0] != ',' {
			return all // neither a space nor a comma after the scheme
		}
	}
}

// parameter reads what follows a parameter's name: "=" and a token or a quoted string.
func parameter(s string) (value, rest string, ok bool) {
	s, ok = strings.CutPrefix(s, "=")
	if !ok {
		return "", "", false
	}
	s = strings.TrimLeft(s, " \t")
	if !strings.HasPrefix(s, `"`) {
		value, rest = token(s)
		rest = strings.TrimLeft(rest, "=") // the padding of a token68
		return value, rest, true
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], true
		case '\\':
			i++
			if i == len(s) {
				return b.String(), "", true
			}
		}
		b.WriteByte(s[i])
	}
	return b.String(), "", true
}

// token cuts the longest token (RFC 9110, section 5.6.2, with the characters of token68) off the front.
func token(s string) (string, string) {
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("!#$%&'*+-.^_`|~/:", c) >= 0:
		default:
			return s[:i], s[i:]
		}
	}
	return s, ""
}
