# Completion of the fermata command for bash. What there is to choose from, `fermata ... --help` tells.

_fermata_words() { # the first column of a help's section, and its long options
  "$@" --help 2>/dev/null | sed -n -E 's/^ {2}(-[a-zA-Z],)*(--[a-z-]+).*/\2/p; s/^ {2}([a-z]+)( .*|$)/\1/p'
}

_fermata() {
  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command='' word
  COMPREPLY=()
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case $word in
      --) # a program and its arguments
        compopt -o default
        return
        ;;
      -*) ;;
      *)
        command=$word
        break
        ;;
    esac
  done
  case $previous in
    --checkpoint-dir)
      mapfile -t COMPREPLY < <(compgen -d -- "$current")
      return
      ;;
    --output | -o | --error | -e | --svg | --on)
      mapfile -t COMPREPLY < <(compgen -f -- "$current")
      return
      ;;
    --user)
      mapfile -t COMPREPLY < <(compgen -u -- "$current")
      return
      ;;
    --numa)
      mapfile -t COMPREPLY < <(compgen -W 'replan keep ignore' -- "$current")
      return
      ;;
    --external-tcp)
      mapfile -t COMPREPLY < <(compgen -W 'refuse reset' -- "$current")
      return
      ;;
    --track)
      mapfile -t COMPREPLY < <(compgen -W 'auto uffd soft-dirty hash none' -- "$current")
      return
      ;;
    --compress)
      mapfile -t COMPREPLY < <(compgen -W 'none lz4 zstd auto' -- "$current")
      return
      ;;
    --nodes | --nodelist | -w | -N)
      command=nodes
      ;;
  esac
  case $command:$current in
    :*) mapfile -t COMPREPLY < <(compgen -W "$(_fermata_words fermata)" -- "$current") ;;
    *:-*) mapfile -t COMPREPLY < <(compgen -W "$(_fermata_words fermata "$command")" -- "$current") ;;
    nodes:* | drain:* | undrain:*)
      mapfile -t COMPREPLY < <(compgen -W "$(fermata nodes 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$current")
      ;;
    checkpoint:* | able:* | show:* | vacate:* | requeue:* | exec:* | numa:*)
      mapfile -t COMPREPLY < <(compgen -W "$(fermata jobs 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$current")
      ;;
    inspect:*) mapfile -t COMPREPLY < <(compgen -f -- "$current") ;;
  esac
}

complete -F _fermata fermata
