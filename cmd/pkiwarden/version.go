package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the release build: -ldflags "-X main.version=v1.2.3".
var version string

// buildInfo is what `pkiwarden version -o json` prints.
type buildInfo struct {
	Version  string `json:"version"`
	Commit   string `json:"commit"` // with "-dirty" when the tree had changes, "unknown" outside a checkout
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func (b buildInfo) String() string {
	return fmt.Sprintf("pkiwarden %s (commit %s, %s, %s)", b.Version, b.Commit, b.Go, b.Platform)
}

// readBuild tells which build this is: the linker's version, else the module's,
// else "devel".
func readBuild() buildInfo {
	b := buildInfo{Version: version, Commit: "unknown", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if ok && b.Version == "" && info.Main.Version != "(devel)" {
		b.Version = info.Main.Version
	}
	if b.Version == "" {
		b.Version = "devel"
	}
	if !ok {
		return b
	}
	dirty := ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			b.Commit = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	if b.Commit != "unknown" {
		b.Commit += dirty
	}
	return b
}

func newVersionCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version, the commit and the Go release it was built with",
		Long:  "Version prints the version, the commit and the Go release it was built with." + codes{0: "printed"}.help(),
		Example: `  pkiwarden version
  pkiwarden version -o json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b := readBuild()
			if a.output == outputJSON {
				return writeJSON(a.stdout, b)
			}
			_, err := fmt.Fprintln(a.stdout, b)
			return err
		},
	}
}

func newCompletionCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish|powershell",
		Short: "Print a completion script for a shell",
		Long:  "Completion prints what makes a shell complete commands and flags." + codes{0: "printed"}.help(),
		Example: `  source <(pkiwarden completion bash)
  pkiwarden completion zsh > "${fpath[1]}/_pkiwarden"`,
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.stdout, true)
			case "zsh":
				return root.GenZshCompletion(a.stdout)
			case "fish":
				return root.GenFishCompletion(a.stdout, true)
			default:
				return root.GenPowerShellCompletionWithDesc(a.stdout)
			}
		},
	}
}
