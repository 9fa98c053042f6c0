"""List the English that questions are read by: what can be asked, the words that ask for it, and words to skip.

The first pattern that a clause holds decides what it asks for; `#` stands for "above 300", the sign of a section and a
number for the name of a series.
"""

from __future__ import annotations

import re

# What can be asked, each with an example. The first pattern that a clause holds decides.
KINDS: dict[str, str] = {
    "overview": "what happened in March?",
    "forecast": "what comes next week?",
    "sure": "how sure is next week?",
    "exceed_ahead": "will it exceed 300 tomorrow?",
    "exceed": "when did it exceed 300?",
    "trend": "is it growing?",
    "season": "is there a weekly pattern?",
    "shift": "when did the level change?",
    "anomalies": "were there anomalies in May?",
    "unusual": "is today unusual?",
    "maximum": "when was the peak?",
    "minimum": "what was the lowest value in Q2?",
    "mean": "what is the average in June?",
    "total": "what is the total of 2012?",
    "median": "what is the median?",
    "deviation": "how volatile is it?",
    "change": "what changed after 5 May?",
    "compare": "compare March and April",
    "alike": "which series are alike?",
    "value": "what was it on 5 May?",
    "missing": "are values missing?",
    "extent": "what does the table cover?",
}
PATTERNS: tuple[tuple[str, str], ...] = (
    ("exceed_ahead",
     r"\b(will|going to|chances?|probability|likely|risk|odds|could|might|can it|may it|expected to)\b.*#|"
     r"# .*\bnext\b"),
    ("sure",
     r"\bhow (sure|certain|confident|reliable|uncertain|safe|wide|trustworthy)\b|\b(uncertainty|confidence|"
     r"error bars?|prediction interval)\b"),
    ("exceed", r"#"),
    ("missing",
     r"\b(missing|gaps?|holes?|not observed|unobserved|incomplete|complete(ness)?|nans?|empty|lack\w*|absent|"
     r"blanks?|outages?|dropouts?|drop-outs?|unavailable|not recorded|unrecorded)\b"),
    ("anomalies",
     r"\b(anomal\w+|incidents?|outliers?|spikes?|abnormalit\w+|alarms?|glitch\w*|irregularit\w+|went wrong|"
     r"go wrong|faults?|surpris\w+|suspicious|stands? out|stood out|sticks? out|stuck out|aberra\w+|"
     r"out of the ordinary|bizarre|peculiar\w*|unexpected|unusual (value|event|point|reading|behaviou?r|thing|"
     r"stretch)s?|strange (value|event|point|reading|thing)s?|"
     r"anything (strange|odd(est)?|weird(est)?|unusual|abnormal)|"
     r"something (strange|odd(est)?|weird(est)?|unusual|abnormal))\b"),
    ("mean", r"\btypical (?!for\b|of\b)\w*|\btypically\b|\btypical §"),
    ("unusual",
     r"\b(is|was|are|were)\b.*\b(unusual|normal|abnormal|strange|ordinary|typical|odd|exceptional|usual|"
     r"extraordinary)\b"),
    ("anomalies", r"\b(unusual\w*|strange\w*|abnormal\w*|odd(est)?|weird(est)?|irregular\w*)\b"),
    ("season", r"\bweekdays?\b|\b(day|hour|time) of (the )?(day|week)\b|\bmonth of the year\b"),
    ("alike",
     r"\b(alike|similar\w*|resembl\w+|correlat\w+|together|relat(e|es|ed|ion|ionship)|follows?|leads?|lags?|"
     r"depends?|linked|goes with|in step|in sync|synchron\w+|mirrors?|associat\w+|connected|hand in hand|"
     r"same (shape|pattern|way)|each other)\b"),
    ("shift",
     r"\b(shift\w*|change[- ]?points?|regimes?|structural|breaks?|step change|steps? in|jump\w*|(new|another|"
     r"different|other) level|new normal|for good|permanent\w*|level chang\w+|level (move|go)\w*)\b|"
     r"\blevels?\b.*\bchang\w+|\bchang\w+\b.*\blevel\b"),
    ("forecast",
     r"\b(next|forecast\w*|predict\w*|expect\w*|will|coming|future|tomorrow|outlook|project\w*|ahead|upcoming|"
     r"continue|anticipat\w+|foresee\w*|extrapolat\w+|prognosis|develop|evolve)\b"),
    ("season",
     r"\b(season\w*|cycl\w+|periodic\w*|periods?|repeat\w*|recur\w*|rhythm|patterns?|busiest|quietest|"
     r"of the (day|week|year))\b|\b(hourly|daily|weekly|monthly|yearly|annual) (pattern|cycle|season\w*|rhythm|"
     r"profile)\b"),
    ("change", r"\bby how much\b|\brise or fall\b"),
    ("trend",
     r"\b(trend\w*|grow\w*|rising|rises?|falling|increasing|decreasing|declin\w+|shrink\w*|direction|slope|"
     r"upwards?|downwards?|up or down|(going|heading|moving|drifting|trending) (up|down)|climb\w*|"
     r"better or worse|tendency|improving|worsening)\b"),
    ("maximum",
     r"\b(highest|max\w*|peak\w*|largest|most|record|biggest|greatest|top\w*|all-time high|tallest|high point|"
     r"best|how high (did|has|had|could|does)|crest\w*|summit|ceiling|culminat\w+)\b"),
    ("minimum",
     r"\b(lowest|min|minim\w+|trough\w*|smallest|least|bottom\w*|worst|low point|all-time low|fewest|"
     r"how low (did|has|had|could|does)|nadir|floor|deepest|weakest)\b"),
    ("total",
     r"\b(total\w*|sum(s|med|ming)?|altogether|cumulat\w+|add\w*( it)? up|in all|overall amount|aggregate\w*|"
     r"combined|accumulat\w+)\b"),
    ("median", r"\bmedian\b"),
    ("mean", r"\b(averag\w*|mean|on average|usual level|normally|on the whole)\b"),
    ("deviation",
     r"\b(volatil\w+|varia\w+|vary|varies|varied|nois\w+|deviation|spread|stable|unstable|stability|"
     r"fluctuat\w+|steady|dispersion|scatter\w*|erratic|consistent|swings?|jitter\w*)\b"),
    ("compare",
     r"\b(compar\w+|versus|vs|differ\w*|against|than|relative to)\b|"
     r"\bwhich\b.*\b(higher|lower|larger|bigger|greater|smaller)\b"),
    ("change",
     r"\b(chang\w+|increase[ds]?|decrease[ds]?|rose|fell|falls?|drop\w*|gain\w*|lost|loss|grew|difference|"
     r"(go|goes|went|gone) (up|down)|moved?|evolved?)\b"),
    ("extent",
     r"\b(how (many|long|often)|since when|which series|what series|what columns|names?|frequency|sampl\w+|"
     r"cover\w*|time range|resolution|what is (in|this))\b"),
    ("value",
     r"\b(values?|how (high|low|much|large|big)|latest|current\w*|now|readings?|read|show|stood|level|what (is|"
     r"was|were) (it|§\d+))\b"),
    ("overview",
     r"\b(happen\w*|summar\w+|describe|overview|tell me|explain|report|going on|story|look like|notable|"
     r"interesting|know about|did|do)\b"),
)  # fmt: skip
REFUSED: tuple[tuple[str, str], ...] = (
    (
        r"\b(why|causes?|caused|because|reasons?|due to|blame|responsible|root cause|explain why)\b",
        "causes are not in the table",
    ),
    (
        r"\b(should|recommend\w*|advise|advice|buy|sell|invest|what can we do|how to|how (can|do) (i|we|you))\b",
        "what to do is not in the table",
    ),
    (r"\b(who|whose|whom)\b", "the table holds numbers over time, not people"),
    (r"\b(what if|if we|would have|had we|suppose)\b", "what would have been is not in the table"),
)
WORDS = frozenset(
    re.findall(
        r"\S+",
        """
        a able about above absolute accept accurate achieve across act actually add added additional adjust advance
        affairs after afternoon afterwards again against ago ahead aim alarm all allow almost alone along also
        altogether always am among amongst amount amounted amounts an analyse analysis analyze and another answer
        any anyone anything anytime anywhere apart apparent appear appears approach approximate approximately are
        area areas arithmetic arrive as aside ask assume at attain available average avoid away back bad basic basis
        be became because becomes been before began begin begins behave behaved behaving behaviour being believe
        below best better between beyond big bigger biggest bit both bound bounds break brief briefly bring brings
        broad building but by calculate call called calm came can careful case cases catch caught centre certain
        chance changes channel channels chart check checking clear close closer column columns come comes coming
        compared complete compute concerning condition confirm consider considered consistent contain contains
        content context continue continued correct could count couple course cross crossed current currently curve
        cycle daily data dataset date dates day days dealing decide deep deliver delivered depict depth detail
        details determine develop development did difference different difficult dig direct discover display
        distance do does doing done doubt down dozen draw drew drift due duration during each earlier early ease
        easily easy edge eight either eleven else encounter end ended ends enough entire entirely entry equal
        essentially establish estimate estimated evaluate even evening event events eventually ever every everyone
        everything evidence evident evolve evolved exact exactly examine example exist exists experience experienced
        expose extent extreme extremely eye face faced fact facts fail failed fair fairly far fast faster fastest
        feature features feel few fewer figure figures file fill final finally find finish finished first fit five
        fix flat for form format forth forward found four free frequent frequently fresh friday from full fully
        function further gather gave general generally get gets getting give given glance go goal goes going gone
        good got grab great greater gross had half halfway hand handle hang happen happened happening happens hard
        hardly has have having heavy held hello help here hi hide high higher highest hint his hit hits hold holding
        holds hour hourly hours how how'd how's however huge hundred i i'd i'm idea ideas identify if immediate
        important in incl included including indicate inform information initial inside inspect instance instant
        instead interested interval intervals into involve is issue issues it item items its itself january job
        joint jumped just keep keeps kept key kind know knows lack lacks land landed large largely larger last late
        lately later latest latter lay lead leading learn learned least leave leaves left lend length less let lets
        level levels lie lies lift lifted like likely limit limits line lines list listed live local locate located
        location logged long longer longest look looked looking looks lot lots loud low lower lowest made magnitude
        main mainly major majority make makes managed manner many mark marked matter matters maximum may maybe me
        mean measure measured measurement measurements median mention met metric metrics middle midnight might
        minimum minor minute minutes miss mode moment moments monday month monthly months more morning most mostly
        move moved movement moves moving much multiple must my name names natural near nearby nearly necessary need
        needs neither net new next night no noon normal not noted nothing notice noticeable noticed now number
        numbers observation observations observed obtain obvious occasion occasional occasions occur occurred
        occurrence occurring occurs oddest odds of off offer often ok okay old on once one ones ongoing only onward
        onwards open opening opposite or order ordered ordinary original other others otherwise ought our out
        outcome outside over overall own pair pairs part particular particularly parts pass passed past peculiar per
        percent percentage perform performed perhaps period periods permanent pick picture pictures piece place
        plain please plot plotted plus point pointed points portion pose position possible possibly potential
        precise precisely present previous prior probability probably problem problems produce profile progress
        prompt proper prove provide provided pull push put puts quantity quarter quarters question questions quick
        quickly quiet quite quote raise raised range rank rate rather ratio raw reach reached reaches read reading
        ready real realise reality really recall receive recent recently recognise record recorded recover recovered
        reduce regard regarding region regular relative relevant remain remained remains remark remarkable remember
        repeat reply represent represents request require resolve respect respective rest result resulted results
        retrieve return returned reveal reveals review right rough roughly round row rows run running runs same
        saturday saw say says scale scan scope search second seconds section see seek seem seemed seems seen select
        selected sense sensor separate series serious set settle settled several shape share sharp shift short
        shortly show showed showing shown shows side sign signal significant simple simply since single situation
        six size slight slightly slip slope slow slower slowest slowly small smaller smooth so solid solve some
        something sometime somewhat soon sorry sort sorted sorts sound span specific specify split spot spotted
        stage stand standard standing stands start started starts state stated statistics stats status stay stayed
        stays steps stick still stood stop story straight strange strength strict strong stronger strongest strongly
        study subsequent substantial such sudden suddenly suggest suggests sum summary sunday suppose sure surely
        surprise swing swung table take takeaway taken takes taking talk task tell ten tend tended tendency tends
        term terms test than thank thanks that the their them then there these they thing things this those thought
        thousand three through throughout thursday tie time times tiny tip to today together tomorrow too took total
        tough toward towards trace track tracked trouble true truth try trying tuesday turn turned turns twice two
        typical typically ultimately under understand unique unit until unusual up upon upper us use useful uses
        using usual usually vague value values variable variables variations vast versus very via view visible vs
        wait walk want wanted was watch watching way ways we weak weakest wednesday week weekday weekdays weekend
        weekends weekly weeks well went were what what's whatever whats when whenever where wherever whether which
        whichever while whole wide widely will win wish with within without wonder wondering word work worked works
        worry worse worth would wrong year yearly years yes yesterday yet yields you your
        """,
    )
)  # that mean nothing of their own here
