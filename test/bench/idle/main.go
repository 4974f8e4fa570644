// Command idle does nothing: what executing it takes, executing any program takes.
package main

func main() {}
