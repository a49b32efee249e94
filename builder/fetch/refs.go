package fetch
type resolvedRef struct{}
