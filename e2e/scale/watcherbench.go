package main

import "github.com/spf13/cobra"

func watcherCommand(output func(string) error) *cobra.Command { return &cobra.Command{Use: "watcher"} }
