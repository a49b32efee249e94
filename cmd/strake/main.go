// Command strake builds OCI images from Dockerfiles, moves them and runs them.
package main

func main() {}
