// Package sandbox is the child's side of a box: what the re-executed program
// does between clone and execve, in its new namespaces.
package sandbox
