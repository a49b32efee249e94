package runner

// forbiddenHere are calls of this architecture only: there are none.
func forbiddenHere() []call { return nil }
