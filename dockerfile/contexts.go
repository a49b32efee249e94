package dockerfile

import (
	"regexp"
	"strings"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// contexts finds named contexts: by the familiar name of what they stand for, and "NAME::PLATFORM", to what the caller calls them.
type contexts map[string]string

func newContexts(names []string) contexts {
	c := make(contexts, len(names))
	for _, given := range names {
		name, platform, ok := strings.Cut(given, "::")
		if short, valid := familiar(name); valid {
			name = short
		}
		if ok {
			if p, err := parsePlatform(platform); err == nil {
				platform = longPlatform(normalPlatform(p))
			}
			name += "::" + platform
		}
		c[name] = given
	}
	return c
}

// find gives the context that stands for a stage or an image on a platform.
func (c contexts) find(name string, p v1.Platform) (string, bool) {
	if len(c) == 0 || strings.EqualFold(name, scratch) || strings.EqualFold(name, "context") {
		return "", false
	}
	short, ok := familiar(name)
	if !ok {
		return "", false
	}
	if given, ok := c[short+"::"+longPlatform(normalPlatform(p))]; ok {
		return given, true
	}
	given, ok := c[short]
	return given, ok
}

// referenceForm is compiled when it is first needed: each command, and each box of a RUN, would wait for it otherwise.
var referenceForm = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^((?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?/)?` +
		`([a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*)` +
		`(?::([\w][\w.-]{0,127}))?(?:@([A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}))?$`)
})

// familiar is an image's name as people write it: without docker.io/library/ and without ":latest". It is not ok for what can name no image.
func familiar(s string) (string, bool) {
	m := referenceForm().FindStringSubmatch(s)
	if m == nil {
		return "", false
	}
	host, _, _ := strings.Cut(m[1], "/")
	switch host {
	case "docker.io", "index.docker.io":
		s = strings.TrimPrefix(strings.TrimPrefix(s, m[1]), "library/")
	case "library":
		s = strings.TrimPrefix(s, m[1])
	}
	if m[4] == "" {
		s = strings.TrimSuffix(s, ":latest")
	}
	return s, true
}
