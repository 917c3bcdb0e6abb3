// Package pages fills in the memory of processes that CRIU has restored lazily:
// they run already, and each page comes when it is first touched, or before.
package pages
