package dockerfile

// GitRef is what a git URL of ADD or of a build context says.
type GitRef struct {
	Remote string // what git is to be given
	Ref    string // a branch, a tag, a commit or a full reference; empty is the repository's HEAD
	Subdir string // the folder that counts; empty is all
	Commit string // the commit, or the start of one, that Ref must be; empty is any
	// KeepGitDir says whether .git stays; nil is not said. In a Remote, a --keep-git-dir is already in it.
	KeepGitDir *bool
	// Submodules says whether submodules are fetched; nil is not said, which means yes.
	Submodules *bool
	// FetchByCommit: Commit is asked for by its name, so that Ref need not reach it.
	FetchByCommit bool
	// UnencryptedTCP: git:// or http://, so anyone on the way may change what comes.
	UnencryptedTCP bool
}
