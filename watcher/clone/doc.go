// Package clone decides what is next for a Migration that starts a new pod from the
// checkpoint of one that runs on. It is pure: a View goes in, a Step comes out.
package clone
