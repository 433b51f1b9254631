"""Shell completion for bash, made from the table of verbs."""

from confine.verbs import CHOICE, SLIVER, VERBS

SCRIPT = """\
# bash completion of confine: . <(confine completion)
_confine() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} verb=${{COMP_WORDS[1]}} slivers options
    slivers=$(ls /run/confine/stop 2>/dev/null | grep @)
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{verbs}" -- "$word"))
        return
    fi
    case $verb in
{cases}
    esac
    COMPREPLY=($(compgen -W "$options" -- "$word"))
}}
COMP_WORDBREAKS=${{COMP_WORDBREAKS//@/}}
complete -F _confine confine
"""


def script() -> str:
    """The text that a shell is to read."""
    verbs = [verb for verb in VERBS if not verb.hidden and " " not in verb.spoken]
    cases = []
    for verb in verbs:
        options = [argument.flag for argument in verb.arguments if argument.flag]
        if verb.name == "stop":
            options.append("show")
        for argument in verb.arguments:
            options += argument.choices if argument.kind == CHOICE else ()
            options += ["$slivers"] if argument.kind == SLIVER else []
        cases.append('    {}) options="{}" ;;'.format(verb.name, " ".join(options)))
    return SCRIPT.format(verbs=" ".join(verb.name for verb in verbs), cases="\n".join(cases))
