// Package kubectl has the commands of kubectl-lifeboat, which kubectl runs as
// "kubectl lifeboat".
package kubectl

import (
	// Used by the first command.
	_ "k8s.io/cli-runtime/pkg/genericclioptions"
)
