package cache

// ParseFiles is parseFiles for tests.
var ParseFiles = parseFiles
