// Kube is kube-apiserver and kube-controller-manager in one binary, chosen by the name it is called by.
package main

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	manager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

func main() {
	// Only the wanted command may be made: two in one process clash over feature gates.
	var cmd *cobra.Command
	switch filepath.Base(os.Args[0]) {
	case "kube-apiserver":
		cmd = apiserver.NewAPIServerCommand()
	case "kube-controller-manager":
		cmd = manager.NewControllerManagerCommand()
	default:
		os.Stderr.WriteString("call me as kube-apiserver or kube-controller-manager\n")
		os.Exit(64)
	}
	os.Exit(cli.Run(cmd))
}
